"""The caches that a build asks and the places that it exports to, made from what was requested."""

from __future__ import annotations

from asyncbuild.build.caching import Cache, CachePolicy, Export
from asyncbuild.build.job import Job
from asyncbuild.build.publish import Destination
from asyncbuild.build.request import BuildRequest, CachePlace
from asyncbuild.build.supply import Supply
from asyncbuild.cache.directory import DirectoryCache
from asyncbuild.cache.registry import RegistryCache
from asyncbuild.image.reference import Reference


def make_cache(
    job: Job,
    supply: Supply,
    destinations: tuple[Destination, ...],
    request: BuildRequest,
    policy: CachePolicy,
) -> Cache:
    """The cache of one attempt. A place that is read and written is one object."""
    places = _Places(job)
    sources = tuple(
        found for place in request.cache_from if (found := places.end(place)) is not None
    )
    exports = []
    for place in request.cache_to:
        end = places.end(place)
        if end is not None:
            destination = _destination(job, supply, destinations, place.reference)
            exports.append(Export(end, destination, supply.verified_blob, place.everything))
    supply.alternates += [place.path for place in request.cache_from if place.path is not None]
    return Cache(job, policy, sources, tuple(exports))


class _Places:
    """The ends of caches, one object for each place."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._registries: dict[Reference, RegistryCache] = {}

    def end(self, place: CachePlace) -> RegistryCache | DirectoryCache | None:
        """What reads and writes ``place``; an inline cache has no end of its own."""
        if place.path is not None:
            return DirectoryCache(place.path, self._job.store)
        if place.reference is None:
            return None
        if place.reference not in self._registries:
            client = self._job.registries.client(place.reference.registry)
            client.expect(place.reference.repository, "pull")
            self._registries[place.reference] = RegistryCache(
                client, place.reference, place.fallbacks
            )
        return self._registries[place.reference]


def _destination(
    job: Job,
    supply: Supply,
    destinations: tuple[Destination, ...],
    reference: Reference | None,
) -> Destination | None:
    """Where blobs go for a cache in a registry: mounted from the image's repository where they can be."""
    if reference is None:
        return None
    primary = next((item for item in destinations if item.registry == reference.registry), None)
    return Destination(job, supply, (reference,), primary, required=False)
