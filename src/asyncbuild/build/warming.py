"""Base images into a directory before builds want them (``asyncbuild warm``), all side by side.

What the directory has already is not fetched again: a tag costs one request that no registry counts as a
pull. Each blob is fetched once, whatever images and warmers want it; who comes second waits for the first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import trio

from asyncbuild.build.fetching import Fetch
from asyncbuild.build.growing import GrowingFile, verify_blob
from asyncbuild.build.outcome import one_error
from asyncbuild.build.streams import Streams
from asyncbuild.build.supply import MAX_STREAMS
from asyncbuild.cache.images import DamagedEntry, ImageDirectory, Reservation
from asyncbuild.errors import (
    AsyncbuildError,
    ImageNotFound,
    IntegrityError,
    NotSigned,
    RemoteProtocolError,
    StoreError,
)
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor, Index, Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.verification import Verification
from asyncbuild.report.events import (
    Direction,
    ImageResolved,
    Reporter,
    Transfer,
    TransferFinished,
    TransferProgress,
    TransferStarted,
    WarningRaised,
)
from asyncbuild.transfer.copying import blobs_of

_PAUSE = 0.05
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class WarmedImage:
    """An image that is in the directory now: what its name means, and for which platform it is there."""

    reference: Reference
    platform: Platform
    digest: Digest


@dataclass(frozen=True, slots=True)
class Warming:
    """Which images shall be in which directory, signed as ``verification`` wants; ``force`` fetches what is
    there, too. Images that were warmed more than ``ttl`` seconds ago are removed afterwards by whoever asks
    for this; None: none are.
    """

    images: Sequence[tuple[Reference, Platform]]
    directory: Path
    force: bool = False
    ttl: float | None = None
    verification: Verification = field(default_factory=Verification)


async def warm_images(
    warming: Warming, settings: RegistrySettings, reporter: Reporter
) -> tuple[WarmedImage, ...]:
    """Bring each image, for its platform, into the directory.

    An image that cannot be had is a warning; raises one AsyncbuildError if that is so of all, `NotSigned`
    (when the others are there) for one without the signature that it must have, and `StoreError` if the
    directory cannot be written.
    """
    place = ImageDirectory(warming.directory)
    await trio.to_thread.run_sync(place.prepare)
    told = replace(settings, on_notice=lambda text: reporter.emit(WarningRaised(text)))
    images = tuple(dict.fromkeys(warming.images))
    with one_error():
        async with Registries(told) as registries:
            warmer = _Warmer(registries, place, reporter, warming)
            async with trio.open_nursery() as nursery:
                for image in images:
                    nursery.start_soon(warmer.warm, *image)
    await trio.to_thread.run_sync(place.sweep, time.time())
    refused = [error for error in warmer.failed if isinstance(error, NotSigned)]
    if refused or (warmer.failed and not warmer.done):
        raise (refused or warmer.failed)[0]
    return tuple(warmer.done[image] for image in images if image in warmer.done)


class _Warmer:
    """One run: what came of each image, and the blobs that were brought."""

    def __init__(
        self,
        registries: Registries,
        place: ImageDirectory,
        reporter: Reporter,
        warming: Warming,
    ) -> None:
        self._registries = registries
        self._place = place
        self._reporter = reporter
        self._force = warming.force
        self._verification = warming.verification
        self._streams = Streams(MAX_STREAMS)
        self._turns: dict[Digest, trio.Lock] = {}
        self._brought: set[Digest] = set()
        self.done: dict[tuple[Reference, Platform], WarmedImage] = {}
        self.failed: list[AsyncbuildError] = []

    async def warm(self, reference: Reference, platform: Platform) -> None:
        """Bring one image; a failure is noted and told."""
        try:
            with one_error():
                digest = await self._warm(reference, platform)
        except StoreError:
            raise  # no other image would fare better
        except AsyncbuildError as error:
            self.failed.append(error)
            text = f"{reference.familiar} for {platform} is not warmed: {error.message}"
            self._reporter.emit(WarningRaised(text))
        else:
            self.done[reference, platform] = WarmedImage(reference, platform, digest)

    async def _warm(self, reference: Reference, platform: Platform) -> Digest:
        started = trio.current_time()
        client = self._registries.client(reference.registry)
        client.expect(reference.repository, "pull")
        top = await self._named(client, reference)
        await self._verification.verify(client, top, reference)
        image = await self._chosen(client, reference, top, platform)
        seconds = trio.current_time() - started
        self._reporter.emit(ImageResolved(reference, image.digest, seconds))
        blobs = blobs_of(image)
        documents = {item.digest: item.raw for item in (image, top)}
        sizes = [Descriptor("", digest, len(raw)) for digest, raw in documents.items()]
        needed = (*blobs, *sizes)
        listed = Descriptor(top.media_type, top.digest, len(top.raw))
        for _ in range(_ROUNDS):
            async with trio.open_nursery() as nursery:
                for blob in blobs:
                    nursery.start_soon(self._bring, client, reference.repository, blob)
            for raw in documents.values():  # the index after the image
                await trio.to_thread.run_sync(self._place.put, raw)
            await trio.to_thread.run_sync(self._place.keep, needed)
            if await trio.to_thread.run_sync(
                self._place.add, reference, listed, needed, time.time()
            ):
                return top.digest
        raise StoreError(f"blobs vanish from {self._place.path} while they are put there")

    async def _named(self, client: RegistryClient, reference: Reference) -> Manifest | Index:
        digest = reference.digest
        if digest is None:
            found = await client.find_manifest(reference.repository, reference.identifier)
            digest = None if found is None else found.digest
        if digest is not None:
            return await self._by_digest(client, reference, digest)
        return (await client.resolve(reference)).manifest

    async def _chosen(
        self,
        client: RegistryClient,
        reference: Reference,
        top: Manifest | Index,
        platform: Platform,
    ) -> Manifest:
        if isinstance(top, Manifest):
            return top
        entry = top.choose(platform)
        if entry is None:
            raise ImageNotFound(f"{reference} has no image for {platform}")
        image = await self._by_digest(client, reference, entry.digest)
        if isinstance(image, Index):
            raise RemoteProtocolError(f"{reference}: an index inside an index")
        return image

    async def _by_digest(
        self, client: RegistryClient, reference: Reference, digest: Digest
    ) -> Manifest | Index:
        if not self._force:
            with suppress(DamagedEntry):
                known = await trio.to_thread.run_sync(self._place.manifest, digest)
                if known is not None:
                    return known
        return (await client.get_manifest(reference.repository, digest)).manifest

    async def _bring(self, client: RegistryClient, repository: str, blob: Descriptor) -> None:
        """Bring one blob, unless it is here."""
        async with self._turns.setdefault(blob.digest, trio.Lock()):
            while not (await self._is_here(blob)):
                reserved = await trio.to_thread.run_sync(self._place.reserve, blob.digest)
                if reserved is None:  # another warmer is at it
                    await trio.sleep(_PAUSE)
                    continue
                try:
                    if not await self._is_here(blob):  # the other one may just have done it
                        await self._fetch_twice(client, repository, blob, reserved)
                        self._brought.add(blob.digest)
                finally:
                    reserved.release()

    async def _is_here(self, blob: Descriptor) -> bool:
        if self._force and blob.digest not in self._brought:
            return False
        return await trio.to_thread.run_sync(self._place.has, blob)

    async def _fetch_twice(
        self, client: RegistryClient, repository: str, blob: Descriptor, reserved: Reservation
    ) -> None:
        """A blob that comes damaged, or of another size, may come whole the second time."""
        try:
            await self._fetch(client, repository, blob, reserved)
        except IntegrityError as error:
            self._reporter.emit(WarningRaised(f"{error.message}; fetching it once more"))
            await self._fetch(client, repository, blob, reserved)

    async def _fetch(
        self, client: RegistryClient, repository: str, blob: Descriptor, reserved: Reservation
    ) -> None:
        emit, started = self._reporter.emit, trio.current_time()
        transfer = Transfer(Direction.PULL, "layer", client.registry, blob.digest)
        spool = GrowingFile(reserved.path, blob.size)
        fetch = Fetch(
            client=client,
            repository=repository,
            descriptor=blob,
            file=spool,
            streams=self._streams,
            on_progress=lambda done: emit(TransferProgress(transfer, done)),
        )
        emit(TransferStarted(transfer, blob.size))
        try:
            await fetch.run()
            await trio.to_thread.run_sync(verify_blob, reserved.path, blob)
            await trio.to_thread.run_sync(reserved.commit)
        finally:
            spool.close()
        emit(TransferFinished(transfer, blob.size, trio.current_time() - started))
