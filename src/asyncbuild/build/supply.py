"""Supply: base images, from a name to lower directories, each piece fetched at most once.

Every question has one flight: an image (manifest and config) for each reference and platform, a blob
for each digest, an unpacked layer for each digest. Whoever asks gets the same future. A blob is spooled
to a growing file at the speed of the network; unpacking reads from there as soon as a worker is free,
so that all layers of all images come in one wave and no connection waits for a processor.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import trio

from asyncbuild.build.fetching import Fetch
from asyncbuild.build.futures import Future
from asyncbuild.build.growing import GrowingFile, verify_blob
from asyncbuild.build.job import Job
from asyncbuild.build.object_fetch import ObjectFetch
from asyncbuild.build.resolving import BaseImage, Resolver
from asyncbuild.build.streams import Streams
from asyncbuild.build.turns import Turns
from asyncbuild.build.warmed import WarmedImages
from asyncbuild.build.waves import decided, is_pattern, waves
from asyncbuild.cache.objects import ObjectCache, ObjectsFailed
from asyncbuild.cache.results import CachedLayer, CacheLost
from asyncbuild.errors import IntegrityError, LayerError, RegistryError, StoreError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import Descriptor, Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.layers.unpack import Unpacked
from asyncbuild.report.events import (
    Direction,
    LayerUnpacked,
    Transfer,
    TransferFinished,
    TransferProgress,
    TransferStarted,
    WarningRaised,
)
from asyncbuild.rootfs.stack import lower_directories
from asyncbuild.rootfs.view import DirectoryTree, View
from asyncbuild.store.store import UnpackedLayer

T = TypeVar("T")

MAX_STREAMS = 24
"""Downloads under way at once, of all blobs together: enough for one wave, and for a blob that is alone on
a far link, whose slow start is a round trip shorter with twice as many. A registry can bear them: its blobs
lie in storage that is made for ranges, aria2 takes up to 16 connections for each download, and a third of
ours end once the windows are open (`fetching`). A host that refuses some is asked over the others.
"""
BRIEF_STREAMS = 32
"""More of them, for small blobs of a far host: their slow starts come at once, not one after the other."""

_PATIENCE = 0.25
"""Seconds: by then the requests for layers are on their way, or their answers are slow."""


class Supply:
    """All that a build takes from registries. Lives as long as the nursery."""

    def __init__(
        self,
        job: Job,
        *,
        resolver: Resolver,
        keep_blobs: bool,
        warmed: WarmedImages | None = None,
    ) -> None:
        """``keep_blobs``: base layers will be needed as blobs too (a local output, another registry).

        ``resolver`` says what names mean; ``warmed`` is looked into before a registry is asked.
        """
        self._warmed = warmed
        self._resolver = resolver
        self._job = job
        self._store = job.store
        self._keep_blobs = keep_blobs
        self._flights: dict[Hashable, Future[Any]] = {}
        self._streams = Streams(MAX_STREAMS, BRIEF_STREAMS)
        self._anew: set[Digest] = set()
        self._absent: set[Digest] = set()
        self._perhaps: dict[Digest, trio.CancelScope] = {}
        self._hurries: list[Future[None]] = []
        self._turns = Turns(job.unpackers)
        self.layers_pulled = 0
        self.on_root: Callable[[BaseImage, tuple[Path, ...]], None] | None = None
        """Told when all layers of an image are here."""
        self.alternates: list[Path] = list(resolver.layouts.values())
        """OCI layouts of others whose blobs may be read (and are verified like a registry's)."""
        self.object_caches: list[ObjectCache] = []
        """Caches in object stores: each has the blobs of the hits that it gave."""

    def _flight(
        self, key: Hashable, label: str, work: Callable[..., Awaitable[T]], *args: Any
    ) -> Future[T]:
        future = self._flights.get(key)
        if future is None:
            future = self._job.ledger.spawn(self._job.nursery, label, work, *args)
            self._flights[key] = future
        return future

    def image(self, reference: Reference, platform: Platform) -> Future[BaseImage]:
        """The image that ``reference`` names, for ``platform``: its manifest and configuration."""
        key = ("image", reference, platform)
        return self._flight(key, f"image {reference}", self._resolver.resolve, reference, platform)

    def root(self, image: BaseImage) -> Future[tuple[Path, ...]]:
        """The whole image as overlay lower directories, topmost first."""
        key = ("root", image.manifest.digest)
        return self._flight(key, f"root of {image.reference}", self._assemble, image)

    def has_root(self, image: BaseImage) -> bool:
        """Whether the whole image is here, known as such to this build."""
        flight = self._flights.get(("root", image.manifest.digest))
        return flight is not None and flight.done and not flight.failed

    def has_cached(self, layer: CachedLayer) -> bool:
        """Whether a layer that a look-up gave is here, known as such to this build."""
        flight = self._flights.get(("cached", layer.tree or str(layer.diff_id)))
        return flight is not None and flight.done and not flight.failed

    def files(self, image: BaseImage, paths: tuple[str, ...]) -> Future[View]:
        """A view of the image in which ``paths`` can be read; it may lack what they do not need.

        Layers are fetched from the top down, until each path is a file in what is there: nothing below
        can change it then. Only a directory, a pattern or a path that is nowhere needs all layers.
        """
        key = ("files", image.manifest.digest, paths)
        return self._flight(key, f"files of {image.reference}", self._look, image, paths)

    def layer(self, image: BaseImage, position: int) -> Future[UnpackedLayer]:
        """One layer of the image, unpacked on its own; ``position`` counts from the bottom."""
        descriptor, diff_id = image.layers[position]
        key = ("layer", descriptor.digest)
        label = f"layer {descriptor.digest.short}"
        return self._flight(key, label, self._unpack, descriptor, diff_id, image.reference)

    def cached(self, layer: CachedLayer) -> Future[Path]:
        """A layer that a look-up gave, as an overlay lower directory; fails with `CacheLost`."""
        name = layer.tree or str(layer.diff_id)
        return self._flight(("cached", name), f"cached layer {name[:20]}", self._find, layer)

    def blob(self, descriptor: Descriptor, origin: Reference | None) -> Future[GrowingFile]:
        """The layer's blob, perhaps still on its way; its bytes are not verified yet.

        ``origin`` is the repository that has it; None is our own store.
        """
        self._perhaps.pop(descriptor.digest, None)
        return self._blob(descriptor, origin, trio.CancelScope())

    def _blob(
        self, descriptor: Descriptor, origin: Reference | None, scope: trio.CancelScope
    ) -> Future[GrowingFile]:
        key, label = ("blob", descriptor.digest), f"blob {descriptor.digest.short}"
        return self._flight(key, label, self._spool, descriptor, origin, scope)

    async def fetch_perhaps(self, image: BaseImage) -> None:
        """Begin to fetch what of the image is not here; it may turn out that nobody needs it."""
        for descriptor in await self._missing(image.layers):
            if ("blob", descriptor.digest) not in self._flights:
                scope = self._perhaps[descriptor.digest] = trio.CancelScope()
                self._blob(descriptor, image.reference, scope)

    def withdraw(self, image: BaseImage) -> None:
        """Nobody needs the image: end what only `fetch_perhaps` has begun."""
        for descriptor, _ in image.layers:
            scope = self._perhaps.pop(descriptor.digest, None)
            if scope is not None:
                self._flights.pop(("blob", descriptor.digest), None)
                scope.cancel()

    def fetch_early(self, reference: Reference, manifest: Manifest) -> None:
        """Fetch the layers that are not unpacked, unless the configuration is here: it tells more."""
        if not self._store.has_blob(manifest.config.digest):
            self._hurries.append(
                self._job.ledger.spawn(
                    self._job.nursery,
                    f"first bytes of {reference}",
                    self._fetch_early,
                    reference,
                    manifest,
                )
            )

    async def _fetch_early(self, reference: Reference, manifest: Manifest) -> None:
        layers = tuple((item, self._store.diff_id_of(item.digest)) for item in manifest.layers)
        asked = await self._begin(layers, reference)
        if asked:
            await (await asked[0].wait()).wait_size(0)

    async def calm(self) -> None:
        """Return when layers that were asked for early begin to come, soon in any case: a hundred small
        requests that begin in the same moment would hold the large ones up, and have time.
        """
        with trio.move_on_after(_PATIENCE), suppress(Exception):  # it is told where it is awaited
            for hurry in self._hurries:
                await hurry.wait()

    async def verified_blob(self, descriptor: Descriptor, origin: Reference | None) -> Path:
        """The layer's blob in the store, whole and verified."""
        if not await trio.to_thread.run_sync(self._store.has_blob, descriptor.digest):
            await self.blob(descriptor, origin).wait()
            unpacked = self._flights.get(("layer", descriptor.digest))
            if unpacked is not None:
                await unpacked.wait()
            if not self._store.has_blob(descriptor.digest):
                await self._twice(descriptor, self._keep_verified, descriptor, origin)
        return self._store.blob_path(descriptor.digest)

    async def _keep_verified(self, descriptor: Descriptor, origin: Reference | None) -> None:
        spool = await self.blob(descriptor, origin).wait()
        await spool.wait_complete()
        await trio.to_thread.run_sync(verify_blob, spool.path, descriptor)
        await trio.to_thread.run_sync(self._keep, spool, descriptor)

    async def _twice(
        self, descriptor: Descriptor, work: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        """``work``, which reads a blob; again with the blob fetched anew if its bytes were wrong: they may
        have been damaged on their way, or in the store.
        """
        try:
            return await work(*args)
        except IntegrityError as error:
            if descriptor.digest in self._anew:
                raise
            self._anew.add(descriptor.digest)
            self._flights.pop(("blob", descriptor.digest), None)
            where = "" if self._warmed is None else self._warmed.place_of(descriptor.digest)
            text = f"{where}{error.message}; fetching it once more"
            self._job.reporter.emit(WarningRaised(text))
        return await work(*args)

    async def verified_cached_blob(self, layer: CachedLayer) -> Path:
        """As `verified_blob`, of a layer that a look-up gave; raises `CacheLost`."""
        if layer.descriptor is None:
            raise CacheLost(layer, "it was never packed")
        try:
            return await self.verified_blob(layer.descriptor, layer.origin)
        except (RegistryError, LayerError, StoreError, ObjectsFailed) as error:
            raise CacheLost(layer, str(error)) from error

    async def _assemble(self, image: BaseImage) -> tuple[Path, ...]:
        await self._begin(image.layers, image.reference)
        flights = [self.layer(image, position) for position in range(len(image.layers))]
        unpacked = [await flight.wait() for flight in flights]
        lowers = tuple(await trio.to_thread.run_sync(lower_directories, unpacked, self._store))
        if self.on_root is not None:
            self.on_root(image, lowers)
        return lowers

    async def _begin(
        self, layers: Sequence[tuple[Descriptor, DiffId | None]], origin: Reference
    ) -> list[Future[GrowingFile]]:
        """Begin to fetch the layers of which nothing is here, in one moment: so the largest are first."""
        return [self.blob(descriptor, origin) for descriptor in await self._missing(layers)]

    async def _missing(
        self, layers: Sequence[tuple[Descriptor, DiffId | None]]
    ) -> list[Descriptor]:
        """The layers of which nothing is here, the largest first."""

        def absent() -> list[Descriptor]:
            return [
                item
                for item, diff_id in layers
                if diff_id is None or self._store.layer(diff_id) is None
                if not self._store.has_blob(item.digest)
            ]

        found = await trio.to_thread.run_sync(absent)
        self._absent.update(descriptor.digest for descriptor in found)
        return sorted(found, key=lambda descriptor: -descriptor.size)

    async def _find(self, layer: CachedLayer) -> Path:
        tree = self._store.tree(layer.tree) if layer.tree else None
        if tree is not None:
            return tree
        if layer.descriptor is None or layer.diff_id is None:
            raise CacheLost(layer, "it is no longer in the store")
        key = ("layer", layer.descriptor.digest)
        label = f"layer {layer.descriptor.digest.short}"
        flight = self._flight(
            key, label, self._unpack, layer.descriptor, layer.diff_id, layer.origin
        )
        try:
            return (await flight.wait()).path
        except (RegistryError, LayerError, ObjectsFailed) as error:
            raise CacheLost(layer, str(error)) from error

    async def _look(self, image: BaseImage, paths: tuple[str, ...]) -> View:
        top = len(image.layers)
        sizes = [descriptor.size for descriptor, _ in reversed(image.layers)]
        for count in [] if any(map(is_pattern, paths)) else waves(sizes):
            flights = [self.layer(image, top - 1 - depth) for depth in range(count)]
            trees = [DirectoryTree((await flight.wait()).path) for flight in flights]
            view = View(trees)
            if await trio.to_thread.run_sync(decided, view, paths):
                return view
        return View([DirectoryTree(path) for path in await self.root(image).wait()])

    async def _unpack(
        self, descriptor: Descriptor, diff_id: DiffId, origin: Reference | None
    ) -> UnpackedLayer:
        if descriptor.digest not in self._absent:
            present = await trio.to_thread.run_sync(self._store.layer, diff_id)
            if present is not None:
                return present
        layer = await self._twice(descriptor, self._unpack_blob, descriptor, diff_id, origin)
        if self._keep_blobs:
            spool = await self.blob(descriptor, origin).wait()
            await trio.to_thread.run_sync(self._keep, spool, descriptor)
        return layer

    async def _unpack_blob(
        self, descriptor: Descriptor, diff_id: DiffId, origin: Reference | None
    ) -> UnpackedLayer:
        spool = await self.blob(descriptor, origin).wait()
        started = trio.current_time()
        work = await trio.to_thread.run_sync(self._store.new_layer)
        try:
            async with self._turns.turn(spool):
                result = await self._job.workers.unpack(
                    descriptor, diff_id, work / "fs", spool.whole_or_tail()
                )
            layer = await trio.to_thread.run_sync(self._commit, work, descriptor, result)
        except BaseException:
            await _remove(work)
            raise
        self._job.reporter.emit(
            LayerUnpacked(
                diff_id, result.facts.entries, result.facts.size, trio.current_time() - started
            )
        )
        return layer

    async def _spool(
        self, descriptor: Descriptor, origin: Reference | None, scope: trio.CancelScope
    ) -> GrowingFile:
        if descriptor.digest not in self._anew or origin is None:
            found = await self._at_hand(descriptor)
            if found is not None:
                return found
        promised = [cache for cache in self.object_caches if cache.promises(descriptor.digest)]
        if origin is None and not promised:
            raise StoreError(f"the store has no blob {descriptor.digest}")
        spool = self._job.closed_at_end(GrowingFile(self._store.new_blob(), descriptor.size))
        if origin is None:
            fetch = ObjectFetch(promised[0], descriptor, spool, self._job.reporter)
            self._job.nursery.start_soon(fetch.run)
        else:
            self._job.nursery.start_soon(self._download, descriptor, origin, spool, scope)
        return spool

    async def _at_hand(self, descriptor: Descriptor) -> GrowingFile | None:
        """The blob in the store, or in somebody's layout."""
        absent = descriptor.digest in self._absent
        if not absent and await trio.to_thread.run_sync(self._store.has_blob, descriptor.digest):
            whole = GrowingFile.whole(self._store.blob_path(descriptor.digest))
            return self._job.closed_at_end(whole)
        for layout in self.alternates:
            found = layout / "blobs" / descriptor.digest.algorithm / descriptor.digest.hex
            if await trio.to_thread.run_sync(found.exists):
                return self._job.closed_at_end(GrowingFile.whole(found))
        if self._warmed is not None:
            whole_there = await self._warmed.blob(descriptor)
            if whole_there is not None:
                return self._job.closed_at_end(whole_there)
        return None

    async def _download(
        self,
        descriptor: Descriptor,
        origin: Reference,
        spool: GrowingFile,
        scope: trio.CancelScope,
    ) -> None:
        emit = self._job.reporter.emit
        transfer = Transfer(Direction.PULL, "layer", origin.registry, descriptor.digest)
        fetch = Fetch(
            client=self._job.registries.client(origin.registry),
            repository=origin.repository,
            descriptor=descriptor,
            file=spool,
            streams=self._streams,
            on_progress=lambda done: emit(TransferProgress(transfer, done)),
        )
        started = trio.current_time()
        emit(TransferStarted(transfer, descriptor.size))
        try:
            with scope:
                await fetch.run()
        except Exception:  # noqa: BLE001 - the readers of the spool raise it
            return
        if scope.cancelled_caught:
            return
        self.layers_pulled += 1
        emit(TransferFinished(transfer, spool.size, trio.current_time() - started))

    def _commit(self, work: Path, descriptor: Descriptor, result: Unpacked) -> UnpackedLayer:
        """Let a layer appear that was unpacked in ``work``."""
        layer = self._store.commit_layer(work, result.diff_id, result.facts)
        self._store.remember_diff_id(descriptor.digest, result.diff_id)
        return layer

    def _keep(self, spool: GrowingFile, descriptor: Descriptor) -> None:
        kept = self._store.blob_path(descriptor.digest)
        if spool.path == kept:
            return
        source = spool.path
        if not source.is_relative_to(self._store.root):  # another's: it stays where it is
            source = self._store.new_blob()
            shutil.copyfile(spool.path, source)
        self._store.commit_blob(source, descriptor.digest, descriptor.size)
        spool.path = kept


async def _remove(work: Path) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(lambda: shutil.rmtree(work, ignore_errors=True))
