"""The caches that a build asks and the places that it exports to, made from what was requested."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from asyncbuild.build.caching import Cache, CachePolicy, Export
from asyncbuild.build.job import Job
from asyncbuild.build.publish import Destination
from asyncbuild.build.request import BuildRequest, CachePlace
from asyncbuild.build.supply import Supply
from asyncbuild.cache.directory import DirectoryCache
from asyncbuild.cache.objects import ObjectCache, ObjectPlace
from asyncbuild.cache.registry import RegistryCache
from asyncbuild.image.manifest import Descriptor
from asyncbuild.image.reference import Reference


def make_cache(
    job: Job,
    supply: Supply,
    destinations: tuple[Destination, ...],
    request: BuildRequest,
    policy: CachePolicy,
) -> Cache:
    """The cache of one attempt. A place that is read and written is one object."""
    places = _Places(job, policy)
    sources = tuple(
        found for place in request.cache_from if (found := places.end(place)) is not None
    )
    exports = []
    for place in request.cache_to:
        end = places.end(place)
        if end is not None:
            destination = _destination(job, supply, destinations, place.reference)
            exports.append(Export(end, destination, _fetch(end, supply), place.everything))
    supply.object_caches += places.objects.values()
    supply.alternates += [place.path for place in request.cache_from if place.path is not None]
    return Cache(job, policy, sources, tuple(exports))


class _Places:
    """The ends of caches, one object for each place."""

    def __init__(self, job: Job, policy: CachePolicy) -> None:
        self._job = job
        self._policy = policy
        self._registries: dict[Reference, RegistryCache] = {}
        self.objects: dict[ObjectPlace, ObjectCache] = {}

    def end(self, place: CachePlace) -> RegistryCache | DirectoryCache | ObjectCache | None:
        """What reads and writes ``place``; an inline cache has no end of its own."""
        if place.objects is not None:
            if place.objects not in self.objects:
                self.objects[place.objects] = ObjectCache(
                    place.objects.open(self._job.registries),
                    place.objects.names,
                    self._job.store,
                    self._policy.distrusted,
                )
            return self.objects[place.objects]
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


def _fetch(
    end: RegistryCache | DirectoryCache | ObjectCache, supply: Supply
) -> Callable[[Descriptor, Reference | None], Awaitable[object]]:
    """What brings a blob of the base or of a hit to where ``end`` takes it from."""
    if isinstance(end, ObjectCache):
        return partial(_bring_missing, end, supply)
    return supply.verified_blob


async def _bring_missing(
    cache: ObjectCache, supply: Supply, blob: Descriptor, origin: Reference | None
) -> None:
    if not await cache.has_blob(blob):
        await supply.verified_blob(blob, origin)


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
