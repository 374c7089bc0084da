"""The cache as objects with names: in buckets, and wherever else bytes are put and got by name.

::

    results/<key>.json       what came of a step with that key (`CachedResult`)
    listings/<chainid>       what a base shows (`asyncbuild.layers.listing`)
    blobs/sha256/<hex>       the layers

These are the names unless `ObjectNames` says others. Every entry is an object of its own, so builds that
run at the same time never lose each other's; there is no index, and all keys are asked for in one wave. An
entry is written when its blobs are there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import trio

from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import Absence, Answer, CachedResult, DamagedResult, Hit
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.records import dataclass
from asyncbuild.registry.registries import Registries
from asyncbuild.store.store import Store

PATIENCE = 20.0
"""Seconds that one wave of look-ups, or a listing, may take; then the cache is neither asked nor
written any more."""
_PROBES = 32
_UPLOADS = 4


class ObjectsFailed(AsyncbuildError):
    """An object could not be read or written. Never the end of a build: a miss, or a warning."""

    exit_code = 69
    temporary = True


class ObjectStore(Protocol):
    """Bytes by name. All of its errors are `ObjectsFailed`, whose message says which store and why."""

    @property
    def name(self) -> str:
        """What people call it; nothing secret is in it."""

    async def get(self, name: str) -> bytes | None:
        """A small object, whole; None if there is none. One larger than an entry can be is a failure."""

    def read(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of an object of any size, as they come. One that is not there is a failure."""

    async def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, from memory or from a file; it appears whole, and replaces an earlier one."""

    async def exists(self, name: str) -> bool:
        """Whether there is such an object."""


@dataclass(frozen=True, slots=True)
class ObjectNames:
    """How the names of objects begin. Entries are written below all of ``entries`` and read below the
    first of them.
    """

    entries: tuple[str, ...] = ("results/",)
    blobs: str = "blobs/"
    listings: str = "listings/"

    def entry(self, prefix: str, key: Key) -> str:
        """The object of a key."""
        return f"{prefix}{key.hex}.json"

    def blob(self, digest: Digest) -> str:
        """The object of a layer."""
        return f"{self.blobs}{digest.algorithm}/{digest.hex}"

    def listing(self, chain: DiffId) -> str:
        """The object of a base's listing."""
        return f"{self.listings}{chain.hex}"


class ObjectPlace(Protocol):
    """Where a cache's objects are, as it was asked for; equal places are one cache."""

    @property
    def names(self) -> ObjectNames:
        """How they are called there."""

    def open(self, registries: Registries) -> ObjectStore:
        """The store itself; sends nothing yet. `Registries.service` has the connections."""

    def __hash__(self) -> int: ...


class ObjectCache:
    """Both ends of the cache in ``objects``; ``store`` has the blobs that are put.

    ``distrusted`` has the digests of layers that were promised in vain: such a blob is written anew.
    """

    def __init__(
        self,
        objects: ObjectStore,
        names: ObjectNames,
        store: Store,
        distrusted: Container[str] = frozenset(),
    ) -> None:
        self.name = objects.name
        self.trouble = ""
        self._objects = objects
        self._names = names
        self._store = store
        self._distrusted = distrusted
        self._answers = True
        self._hits: dict[Key, CachedResult] = {}
        self._blobs: set[Digest] = set()
        self._sent: set[Digest] = set()
        self._listed: set[DiffId] = set()
        self._sending: dict[Digest, trio.Lock] = {}
        self._uploads = trio.CapacityLimiter(_UPLOADS)

    async def load(self) -> None:
        """Nothing to fetch: each key is asked for by its name."""
        await trio.lowlevel.checkpoint()

    async def look_up(
        self,
        keys: Iterable[Key],
        *,
        quick: bool = False,  # noqa: ARG002 - without an index there is nothing quicker
    ) -> Mapping[Key, Answer]:
        """Ask for the entries of all keys at once."""
        wanted = tuple(keys)
        answers: dict[Key, Answer] = dict.fromkeys(wanted, Absence.UNAVAILABLE)
        if not self._answers:
            await trio.lowlevel.checkpoint()
            return answers
        limit = trio.CapacityLimiter(_PROBES)

        async def probe(key: Key) -> None:
            async with limit:
                answers[key] = await self._probe(key)

        with trio.move_on_after(PATIENCE) as scope:
            async with trio.open_nursery() as nursery:
                for key in wanted:
                    nursery.start_soon(probe, key)
        if scope.cancelled_caught:
            self._give_up()
        return answers

    async def listing(self, chain: DiffId) -> bytes | None:
        """The object of that name."""
        found = None
        if not self._answers:
            await trio.lowlevel.checkpoint()
            return None
        with trio.move_on_after(PATIENCE) as scope:
            try:
                found = await self._objects.get(self._names.listing(chain))
            except ObjectsFailed as error:
                self.trouble = error.message
        if scope.cancelled_caught:
            self._give_up()
        if found is not None:
            self._listed.add(chain)
        return found

    async def put(self, keys: tuple[Key, ...], result: CachedResult) -> None:
        """Write the blobs that are missing, then the entries. Raises `ObjectsFailed`.

        A key that leads to the same layers already is left as it is, unless it was written earlier.
        """
        if not self._answers:
            raise ObjectsFailed(f"{self.name}: {self.trouble}")
        going = [key for key in keys if not self._has(key, result)]
        failures: list[ObjectsFailed] = []

        async def put_blob(blob: Descriptor) -> None:
            try:
                await self._put_blob(blob)
            except ObjectsFailed as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for layer in result.layers if going else ():
                assert layer.descriptor is not None
                nursery.start_soon(put_blob, layer.descriptor)
        if failures:
            raise failures[0]
        for key in going:
            for prefix in self._names.entries:
                await self._objects.put(self._names.entry(prefix, key), result.encode())

    async def put_listing(
        self,
        chain: DiffId,
        data: bytes,
        *,
        anew: bool,
        written: int,  # noqa: ARG002 - an object has its own time
    ) -> None:
        """Write the object. Raises `ObjectsFailed`."""
        name = self._names.listing(chain)
        if anew or (chain not in self._listed and not await self._objects.exists(name)):
            await self._objects.put(name, data)

    async def finish(self) -> None:
        """Nothing is left to write."""
        await trio.lowlevel.checkpoint()

    def promises(self, digest: Digest) -> bool:
        """Whether a hit that was given named this layer."""
        return digest in self._blobs

    def read_blob(self, digest: Digest) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of a layer, not checked."""
        return self._objects.read(self._names.blob(digest))

    async def has_blob(self, blob: Descriptor) -> bool:
        """Whether the layer is there and, for all that is known, whole. Raises `ObjectsFailed`."""
        if str(blob.digest) in self._distrusted:
            return False
        if blob.digest not in self._blobs:
            if not await self._objects.exists(self._names.blob(blob.digest)):
                return False
            self._blobs.add(blob.digest)
        return True

    def _has(self, key: Key, result: CachedResult) -> bool:
        known = self._hits.get(key)
        if known is None or not known.same_layers(result):
            return False
        if any(layer.name in self._distrusted for layer in result.layers):
            return False
        return _age_from(known) >= _age_from(result)

    async def _probe(self, key: Key) -> Answer:
        try:
            raw = await self._objects.get(self._names.entry(self._names.entries[0], key))
            if raw is None:
                return Absence.MISS
            result = CachedResult.decode(raw)
        except (ObjectsFailed, DamagedResult) as error:
            self.trouble = str(error)
            return Absence.UNAVAILABLE
        blobs = [layer.descriptor.digest for layer in result.layers if layer.descriptor]
        if len(blobs) < len(result.layers):
            return Absence.MISS
        self._blobs.update(blobs)
        self._hits[key] = result
        return Hit(key, result, self.name)

    async def _put_blob(self, blob: Descriptor) -> None:
        async with self._sending.setdefault(blob.digest, trio.Lock()):
            if blob.digest in self._sent or await self._is_there(blob):
                return
            async with self._uploads:
                await self._objects.put(
                    self._names.blob(blob.digest), self._store.blob_path(blob.digest)
                )
            self._sent.add(blob.digest)

    async def _is_there(self, blob: Descriptor) -> bool:
        """Whether the layer need not be sent. That a hit named it is not enough: it may be gone since."""
        if str(blob.digest) in self._distrusted:
            return False
        if await self._objects.exists(self._names.blob(blob.digest)):
            self._sent.add(blob.digest)
            return True
        return False

    def _give_up(self) -> None:
        self._answers = False
        self.trouble = f"no answer within {PATIENCE:.0f} s"


def _age_from(result: CachedResult) -> int:
    return result.created if result.written is None else result.written
