"""The caches that a build asks and the places that it exports to, made from what was requested."""

from __future__ import annotations

from asyncbuild.build.caching import Cache, CachePolicy, Export
from asyncbuild.build.job import Job
from asyncbuild.build.publish import Destination
from asyncbuild.build.request import BuildRequest, CachePlace
from asyncbuild.build.supply import Supply
from asyncbuild.cache.registry import RegistryCache
from asyncbuild.cache.source import CacheSource


def make_cache(
    job: Job,
    supply: Supply,
    destinations: tuple[Destination, ...],
    request: BuildRequest,
    policy: CachePolicy,
) -> Cache:
    """The cache of one attempt. A place that is read and written is one object."""
    registries: dict[CachePlace, RegistryCache] = {}

    def registry(place: CachePlace) -> RegistryCache:
        plain = place.plain
        if plain not in registries:
            client = job.registries.client(place.reference.registry)
            client.expect(place.reference.repository, "pull")
            registries[plain] = RegistryCache(client, place.reference, place.fallbacks)
        return registries[plain]

    sources: list[CacheSource] = [registry(place) for place in request.cache_from]
    exports = []
    for place in request.cache_to:
        primary = next(
            (item for item in destinations if item.registry == place.reference.registry), None
        )
        destination = Destination(job, supply, (place.reference,), primary, required=False)
        exports.append(Export(registry(place), destination, place.everything))
    return Cache(job, policy, tuple(sources), tuple(exports))
