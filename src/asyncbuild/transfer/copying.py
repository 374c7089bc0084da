"""Copying an image into a repository, and naming it there.

1. Nothing is sent that is there: a manifest that the repository has stands for all its blobs, a blob is
   mounted where source and destination share a registry, and asked for elsewhere. So a copy that was
   interrupted goes on where it was.
2. All blobs of all platforms go side by side, each once; a manifest follows when its blobs are there, an
   index when its manifests are, the names last.
3. A blob that comes damaged, or of another size, is fetched and sent once more: what something on the way
   spoilt may come whole the second time.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from asyncbuild.errors import IntegrityError, RegistryError, RemoteProtocolError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor, Index, Manifest, is_foreign
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.bodies import Body, Reading
from asyncbuild.registry.client import Fetched, RegistryClient
from asyncbuild.registry.registries import Registries
from asyncbuild.registry.upload import Mounted, UploadSession
from asyncbuild.report.events import (
    Direction,
    ImagePushed,
    Reporter,
    Transfer,
    TransferFinished,
    TransferOutcome,
    TransferProgress,
    TransferStarted,
    WarningRaised,
)
from asyncbuild.transfer.sources import Source

MAX_UPLOADS = 8
"""Blobs on their way at once. Each may hold two connections to one host, of which there are 48."""
_DEEPEST = 4
"""Indexes inside indexes; the specification allows any number, images in the field have one."""
_IMMUTABLE = "immutable"
"""What registries say of a tag that may not be moved."""
ATTESTATION_OF = "vnd.docker.reference.digest"


@dataclass(slots=True)
class CopyStatistics:
    """How the blobs got there, and how many bytes were sent."""

    moved: int = 0
    mounted: int = 0
    existing: int = 0
    bytes_sent: int = 0


@dataclass(slots=True)
class Copier:
    """Brings images into one repository. ``statistics`` counts what it did. ``keep_immutable``: a tag that
    the registry does not let be moved stays as it is, with a warning.
    """

    registries: Registries
    reporter: Reporter
    registry: str
    repository: str
    keep_immutable: bool = False
    statistics: CopyStatistics = field(default_factory=CopyStatistics)
    _arrived: dict[Digest, trio.Event] = field(default_factory=dict)
    _uploads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(MAX_UPLOADS)
    )
    _serial: int = 0

    @property
    def _client(self) -> RegistryClient:
        return self.registries.client(self.registry)

    def expect(self, source: Reference | None = None) -> None:
        """Say ahead what will be done: one token is asked for all of it."""
        self._client.expect(self.repository, "pull", "push")
        if source is not None:
            self.registries.client(source.registry).expect(source.repository, "pull")

    async def copy(self, source: Source, image: Fetched, tags: Iterable[str | None]) -> None:
        """Bring ``image`` here with all that it needs, under each tag (None: by its digest only)."""
        names = tuple(tag for tag in dict.fromkeys(tags) if tag is not None)
        await self._copy(source, image, 0, put=not names)
        async with trio.open_nursery() as nursery:
            for tag in names:
                nursery.start_soon(self.name, image, tag)

    async def copy_entries(self, source: Source, image: Fetched) -> None:
        """Bring what ``image`` lists here, or itself if it is no index; under no name."""
        if not isinstance(image.manifest, Index):
            await self._copy(source, image, 0)
            return
        async with trio.open_nursery() as nursery:
            for entry in {item.digest: item for item in image.manifest.manifests}.values():
                nursery.start_soon(self._copy_entry, source, entry, 1)

    async def name(self, image: Fetched, tag: str) -> None:
        """Let a tag mean ``image``, which is here."""
        reference = Reference(self.registry, self.repository, tag)
        try:
            if await self._meaning(tag) != image.digest:
                await self._client.put_manifest(self.repository, tag, image.raw, image.media_type)
        except RegistryError as error:
            if not (self.keep_immutable and _IMMUTABLE in error.message.lower()):
                raise
            text = f"{reference} is immutable and stays as it is"
            self.reporter.emit(WarningRaised(text))
            return
        self.reporter.emit(ImagePushed(reference, image.digest))

    async def _meaning(self, identifier: str | Digest) -> Digest | None:
        """What is here under a tag or digest; None also if the registry does not tell."""
        try:
            found = await self._client.head_manifest(self.repository, identifier)
        except RemoteProtocolError:
            return None
        return found.digest if found is not None else None

    async def _copy(self, source: Source, image: Fetched, depth: int, *, put: bool = True) -> None:
        if depth > _DEEPEST:
            raise RemoteProtocolError(f"{image.digest}: indexes inside indexes without end")
        if await self._meaning(image.digest) == image.digest:
            return
        async with trio.open_nursery() as nursery:
            if isinstance(image.manifest, Index):
                for entry in {item.digest: item for item in image.manifest.manifests}.values():
                    nursery.start_soon(self._copy_entry, source, entry, depth + 1)
            else:
                for blob in blobs_of(image.manifest):
                    nursery.start_soon(self._bring, source, blob)
        if put:
            await self._client.put_manifest(
                self.repository, image.digest, image.raw, image.media_type
            )

    async def _copy_entry(self, source: Source, entry: Descriptor, depth: int) -> None:
        image = await source.manifest(entry.digest)
        if len(image.raw) != entry.size:
            raise IntegrityError(f"manifest {entry.digest} has another size than its index says")
        await self._copy(source, image, depth)

    async def _bring(self, source: Source, blob: Descriptor) -> None:
        """Bring one blob here; who asks for it while it is under way waits for it."""
        known = self._arrived.get(blob.digest)
        if known is not None:
            await known.wait()
            return
        arrived = self._arrived[blob.digest] = trio.Event()
        self._serial += 1
        transfer = Transfer(Direction.PUSH, "layer", self.registry, blob.digest, self._serial)
        started = trio.current_time()
        outcome = await self._move_twice(source, blob, transfer)
        moved = blob.size if outcome is TransferOutcome.MOVED else 0
        seconds = trio.current_time() - started
        self.reporter.emit(TransferFinished(transfer, moved, seconds, outcome))
        arrived.set()

    async def _move_twice(
        self, source: Source, blob: Descriptor, transfer: Transfer
    ) -> TransferOutcome:
        try:
            return await self._move(source, blob, transfer)
        except IntegrityError as error:
            self.reporter.emit(WarningRaised(f"{error.message}; once more"))
        return await self._move(source, blob, transfer)

    async def _move(self, source: Source, blob: Descriptor, transfer: Transfer) -> TransferOutcome:
        home = source.home(blob)
        mount = None
        if home is not None and home.registry == self.registry:
            mount = home.repository if home.repository != self.repository else None
        if mount is None and await self._client.blob_exists(
            self.repository, blob.digest, blob.size
        ):
            self.statistics.existing += 1
            return TransferOutcome.EXISTS
        digest = None if mount is None else blob.digest
        session = await self._client.mount_or_start_upload(self.repository, digest, mount)
        if isinstance(session, Mounted):
            self.statistics.mounted += 1
            return TransferOutcome.MOUNTED
        async with self._uploads:
            await self._upload(session, source, blob, transfer)
        self.statistics.moved += 1
        self.statistics.bytes_sent += blob.size
        return TransferOutcome.MOVED

    async def _upload(
        self, session: UploadSession, source: Source, blob: Descriptor, transfer: Transfer
    ) -> None:
        self.reporter.emit(TransferStarted(transfer, blob.size))
        body = _Watched(source.body(blob), transfer, self.reporter)
        try:
            await session.put(body, blob.digest)
        except BaseException:
            await session.abort()
            raise


def blobs_of(manifest: Manifest) -> tuple[Descriptor, ...]:
    """The blobs that a repository must have for a manifest: each once, none that may not be passed on."""
    wanted = (manifest.config, *manifest.layers)
    return tuple({blob.digest: blob for blob in wanted if not is_foreign(blob)}.values())


def choose_platforms(index: Index, platforms: Iterable[Platform]) -> Index:
    """``index`` with the entries of ``platforms`` and their attestations only, in its order.

    Raises `LookupError` with the first platform that it has nothing for.
    """
    chosen: set[Digest] = set()
    for platform in platforms:
        entry = index.choose(platform)
        if entry is None:
            raise LookupError(platform)
        chosen.add(entry.digest)
    kept = tuple(
        entry
        for entry in index.manifests
        if entry.digest in chosen or entry.annotations.get(ATTESTATION_OF) in set(map(str, chosen))
    )
    if len(kept) == len(index.manifests):
        return index
    return Index.make(kept, media_type=index.media_type, annotations=index.annotations)


def as_fetched(manifest: Manifest | Index) -> Fetched:
    """A manifest that was made here, as one that was fetched."""
    return Fetched(manifest.raw, manifest.media_type, manifest.digest, manifest)


@dataclass(frozen=True, slots=True)
class _Watched:
    """A body, whose progress is told."""

    body: Body
    transfer: Transfer
    reporter: Reporter

    @property
    def size(self) -> int | None:
        """The body's."""
        return self.body.size

    @property
    def replayable(self) -> bool:
        """The body's."""
        return self.body.replayable

    def read(self, start: int = 0) -> _WatchedReading:
        """The body's reading."""
        return _WatchedReading(self, self.body.read(start), start)


class _WatchedReading:
    def __init__(self, watched: _Watched, reading: Reading, start: int) -> None:
        self._watched = watched
        self._reading = reading
        self._place = start

    async def next_chunk(self) -> bytes:
        if self._place:
            done = TransferProgress(self._watched.transfer, self._place)
            self._watched.reporter.emit(done)
        chunk = await self._reading.next_chunk()
        self._place += len(chunk)
        return chunk

    def close(self) -> None:
        self._reading.close()


def with_annotations(entry: Descriptor, extra: dict[str, str]) -> Descriptor:
    """A descriptor with more annotations."""
    return replace(entry, annotations={**entry.annotations, **extra}) if extra else entry
