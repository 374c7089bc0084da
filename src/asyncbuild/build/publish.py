"""Publishing: every layer goes to every destination while the build still runs.

1. One `Destination` for each repository that is pushed to; all its tags share one upload.
2. A base layer is mounted across repositories of one registry, and the answer is also the check whether
   it exists. Elsewhere the registry is asked for it, and its bytes are sent only if it is missing.
3. An upload session for a layer is opened while the step that makes it still runs, and the layer is sent
   while it is packed. When its digest is known and much is left to send, the registry is asked once
   whether it has it already.
4. Of several repositories in one registry the first gets a large layer's bytes, the others a mount.
5. The config goes beside the last layer, and waits for no guess about the base to be checked; then the
   manifest goes under all tags at once. Nothing else is left at the end.
6. Whatever a registry answers to a push is a `PushFailed`, but for "not allowed" and "come back later".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeGuard

import trio

from asyncbuild.build.futures import Future, Promise
from asyncbuild.build.growing import GrowingBody, GrowingFile
from asyncbuild.build.job import Job
from asyncbuild.build.layers import BaseLayer, ImageLayer, NewLayer
from asyncbuild.build.outcome import one_error
from asyncbuild.build.supply import Supply
from asyncbuild.errors import IntegrityError, NotAuthorized, PushFailed, RateLimited, RegistryError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor, Manifest, is_foreign
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass
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

SMALL = 1 << 20
"""Bytes. A layer up to this size is sent whole in its closing request."""
WORTH_ASKING = 4 << 20
"""Bytes. With this much left to send, one request that asks whether the layer exists is cheap."""

_IMMUTABLE = "immutab"
"""What is in the words of Google's Artifact Registry, Amazon's ECR and Harbor for a tag that may not be
moved.
"""
_NO_REPOSITORY = (
    "is the name right? some registries want a repository to be made before the first push"
)


@dataclass(slots=True)
class PublishStatistics:
    """How the layers got to their destinations."""

    pushed: int = 0
    mounted: int = 0
    existing: int = 0


class Destination:
    """One repository that the image goes to, under one or more tags.

    A registry's error ends the sending, not the build: ``failure`` tells it to whoever has the finished
    image. Any other error cancels the nursery, if the destination is required.
    """

    def __init__(
        self,
        job: Job,
        supply: Supply,
        references: tuple[Reference, ...],
        primary: Destination | None = None,
        *,
        required: bool = True,
    ) -> None:
        """``references`` name one repository; ``primary`` is an earlier one of the same registry.

        What is not ``required`` (a cache) fails only where someone waits for an arrival.
        """
        self._required = required
        self.references = references
        self.registry = references[0].registry
        self.repository = references[0].repository
        self.statistics = PublishStatistics()
        self.failure: RegistryError | None = None
        self._job = job
        self._supply = supply
        self._client = job.registries.client(self.registry)
        self._primary = primary
        self._arrivals: dict[Digest | NewLayer, Promise[None]] = {}
        self._sending: dict[Digest | NewLayer, trio.CancelScope] = {}
        self._sessions: list[Future[UploadSession]] = []
        self._config: tuple[bytes, Future[None]] | None = None
        self._serial = 0
        self._client.expect(self.repository, "pull", "push")

    def open_session(self) -> Future[UploadSession]:
        """Begin an upload whose bytes will come later; also the first check of the right to push."""
        session = self._job.ledger.spawn(
            self._job.nursery, f"upload session of {self.repository}", self._start_upload
        )
        self._sessions.append(session)
        return session

    def send(self, layer: ImageLayer, session: Future[UploadSession] | None = None) -> None:
        """Start to bring ``layer`` here; ``session`` was opened ahead for a new one."""
        name = _name(layer)
        if name in self._arrivals:
            return
        arrived = self._arrivals[name] = self._job.ledger.promise(f"{self.repository}: {layer}")
        scope = self._sending[name] = trio.CancelScope()
        self._job.nursery.start_soon(self._send, layer, session, arrived, scope)

    def withdraw(self, layer: NewLayer) -> None:
        """Stop sending a layer that was sent here and is in no image; nobody may wait for it."""
        if self._arrivals.pop(layer, None) is not None:
            self._sending.pop(layer).cancel()

    async def finish(
        self,
        config: bytes,
        session: Future[UploadSession],
        manifest: Manifest,
        *,
        keep_immutable: bool = False,
        on_arrival: Callable[[], None] = lambda: None,
    ) -> None:
        """What is left when the last layer is packed: its closing request beside the config, then the
        tags; ``on_arrival`` is called in between. A registry's error becomes ``failure``.
        """
        try:
            with one_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.bring_config(config, session).wait)
                    nursery.start_soon(self.wait_layers)
                on_arrival()
                await self.tag(manifest, keep_immutable=keep_immutable)
        except RegistryError as error:
            self._give_up(error)

    def _give_up(self, error: RegistryError) -> None:
        """Send nothing more; the first error counts."""
        if self.failure is None:
            self.failure = error
            text = f"{error.message}; the build goes on, and keeps the image"
            self._job.reporter.emit(WarningRaised(text))

    def bring_config(self, raw: bytes, session: Future[UploadSession]) -> Future[None]:
        """Bring the configuration here, once; if another one was sent before, which a guess made wrong, in
        a session of its own.
        """
        if self._config is None or self._config[0] != raw:
            opened = session if self._config is None else self.open_session()
            label = f"configuration to {self.repository}"
            sent = self._job.ledger.spawn(self._job.nursery, label, self._send_config, raw, opened)
            self._config = raw, sent
        return self._config[1]

    async def _send_config(self, raw: bytes, session: Future[UploadSession]) -> None:
        with self._pushing():
            await (await session.wait()).put(raw, Digest.of(raw))

    async def wait_layers(self) -> None:
        """Return when every layer that was sent has arrived."""
        for arrived in self._arrivals.values():
            await arrived.wait()

    async def tag(self, manifest: Manifest, *, keep_immutable: bool = False) -> None:
        """Push the manifest under every tag, at once; ``keep_immutable``: a tag that the registry does
        not let be moved stays as it is, with a warning.
        """
        async with trio.open_nursery() as nursery:
            for reference in self.references:
                put = partial(self._put_manifest, keep_immutable=keep_immutable)
                nursery.start_soon(put, reference, manifest)

    async def abandon(self) -> None:
        """Tell the registry that the sessions which were opened and not used will not be."""
        async with trio.open_nursery() as nursery:
            for session in self._sessions:
                if session.done and not session.failed:
                    nursery.start_soon(session.value_nowait().abort)

    async def _put_manifest(
        self, reference: Reference, manifest: Manifest, *, keep_immutable: bool
    ) -> None:
        identifier = reference.tag or str(manifest.digest)
        try:
            with self._pushing():
                await self._client.put_manifest(
                    self.repository, identifier, manifest.raw, manifest.media_type
                )
        except RegistryError as error:
            if not (keep_immutable and _IMMUTABLE in error.message.lower()):
                raise
            self._job.reporter.emit(WarningRaised(f"{reference} is immutable and stays as it is"))
            return
        self._job.reporter.emit(ImagePushed(reference, manifest.digest))

    async def _start_upload(self) -> UploadSession:
        await self._supply.calm()
        with self._pushing():
            session = await self._client.mount_or_start_upload(self.repository)
        assert isinstance(session, UploadSession)
        return session

    @contextmanager
    def _pushing(self) -> Iterator[None]:
        """Tell the destination's errors from those of whoever makes the bytes: a pull is a GET."""
        try:
            with one_error():
                yield
        except (NotAuthorized, RateLimited, PushFailed):
            raise
        except RegistryError as error:
            exchange = error.exchange
            if exchange is None or exchange.method in ("GET", "CONNECT"):
                raise
            if exchange.method == "POST" and exchange.status is None:
                raise  # the registry is not there: nothing was sent yet
            unknown = exchange.method == "POST" and exchange.status == 404
            hint = _NO_REPOSITORY if unknown else error.hint
            name = f"{self.registry}/{self.repository}"
            failed = PushFailed(f"cannot push to {name}: {error.message}", hint=hint)
            failed.exchange = exchange
            raise failed from error

    async def _send(
        self,
        layer: ImageLayer,
        session: Future[UploadSession] | None,
        arrived: Promise[None],
        scope: trio.CancelScope,
    ) -> None:
        with scope:
            await self._bring(layer, session, arrived)

    async def _bring(
        self, layer: ImageLayer, session: Future[UploadSession] | None, arrived: Promise[None]
    ) -> None:
        try:
            if self.failure is not None:
                arrived.fail(self.failure)
                return
            with self._pushing():
                if isinstance(layer, BaseLayer):
                    await self._send_base(layer)
                else:
                    await self._send_new(layer, session or self.open_session())
        except RegistryError as error:
            if self._required:
                self._give_up(error)
            arrived.fail(error)
        except BaseException as error:
            if self._required or not isinstance(error, Exception):
                arrived.abandon()
                raise
            arrived.fail(error)
        else:
            arrived.keep(None)

    async def _send_base(self, layer: BaseLayer) -> None:
        descriptor = layer.descriptor
        if is_foreign(descriptor):
            return  # not ours to distribute; the manifest says where it is
        source = layer.origin.repository if self._is_here(layer.origin) else None
        if source == self.repository:
            self.statistics.existing += 1
            return
        await self._supply.calm()
        progress = self._progress(descriptor.digest)
        if source is None and await self._exists(descriptor):
            self._arrived(progress, TransferOutcome.EXISTS)
            return
        mount = None if source is None else descriptor.digest
        answer = await self._client.mount_or_start_upload(self.repository, mount, source)
        if isinstance(answer, Mounted):
            self._arrived(progress, TransferOutcome.MOUNTED)
            return
        if layer.cached is None:
            blob = await self._supply.blob(descriptor, layer.origin).wait()
        else:
            blob = self._whole(await self._supply.verified_cached_blob(layer.cached))
        try:
            await self._put(answer, blob, descriptor, progress)
        except IntegrityError:  # it was sent while it came, and came damaged
            blob = self._whole(await self._supply.verified_blob(descriptor, layer.origin))
            answer = await self._client.mount_or_start_upload(self.repository)
            assert isinstance(answer, UploadSession)
            await self._put(answer, blob, descriptor, progress)

    def _whole(self, path: Path) -> GrowingFile:
        return self._job.closed_at_end(GrowingFile.whole(path))

    async def _exists(self, descriptor: Descriptor) -> bool:
        return await self._client.blob_exists(self.repository, descriptor.digest, descriptor.size)

    def _is_here(self, origin: Reference | None) -> TypeGuard[Reference]:
        return origin is not None and origin.registry == self.registry

    async def _send_new(self, layer: NewLayer, opened: Future[UploadSession]) -> None:
        progress = self._progress(None)
        if self._primary is not None and await self._mount_from_primary(layer, progress):
            return
        await layer.file.wait_size(SMALL)
        session = await opened.wait()
        if layer.file.complete:
            packed = await layer.packed.wait()
            await self._put(session, layer.file, packed.descriptor, progress)
        elif await self._stream(session, layer, progress):
            packed = await layer.packed.wait()
            await session.close(packed.descriptor.digest)
            self._arrived(progress, TransferOutcome.MOVED)
        else:
            self._arrived(progress, TransferOutcome.EXISTS)
            await session.abort()

    async def _mount_from_primary(self, layer: NewLayer, progress: _Progress) -> bool:
        """Take a large layer from the first repository of this registry, once it has arrived there; a cache
        also gets layers of stages that the image has nothing of.
        """
        assert self._primary is not None
        await layer.file.wait_size(SMALL)
        there = self._primary.arrival_nowait(layer)
        if there is None or layer.file.size <= SMALL:
            return False
        try:
            await there.wait()
        except RegistryError:
            return False
        digest = (await layer.packed.wait()).descriptor.digest
        source = self._primary.repository
        answer = await self._client.mount_or_start_upload(self.repository, digest, source)
        if isinstance(answer, Mounted):
            self._arrived(progress, TransferOutcome.MOUNTED)
            return True
        await answer.abort()
        return False

    def arrival(self, layer: ImageLayer) -> Future[None]:
        """The future of a layer that was sent here."""
        return self._arrivals[_name(layer)]

    def arrival_nowait(self, layer: ImageLayer) -> Future[None] | None:
        """The same; None for a layer that nobody sent here."""
        return self._arrivals.get(_name(layer))

    async def _put(
        self, session: UploadSession, file: GrowingFile, descriptor: Descriptor, progress: _Progress
    ) -> None:
        self._job.reporter.emit(TransferStarted(progress.transfer, descriptor.size))
        body = GrowingBody(file, descriptor.size, progress.advance)
        await session.put(body, descriptor.digest)
        self._arrived(progress, TransferOutcome.MOVED)

    async def _stream(self, session: UploadSession, layer: NewLayer, progress: _Progress) -> bool:
        """Send the layer while it is packed; False if the registry turned out to have it."""
        self._job.reporter.emit(TransferStarted(progress.transfer, None))
        sent = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_if_known, layer, progress, nursery.cancel_scope)
            await session.stream(GrowingBody(layer.file, None, progress.advance))
            sent = True
            nursery.cancel_scope.cancel()
        return sent

    async def _stop_if_known(
        self, layer: NewLayer, progress: _Progress, stream: trio.CancelScope
    ) -> None:
        descriptor = (await layer.packed.wait()).descriptor
        left = descriptor.size - progress.sent
        if left <= WORTH_ASKING:
            return
        with suppress(RegistryError):  # only asked to save time
            if await self._exists(descriptor):
                stream.cancel()

    def _progress(self, digest: Digest | None) -> _Progress:
        self._serial += 1
        transfer = Transfer(Direction.PUSH, "layer", self.registry, digest, self._serial)
        return _Progress(transfer, self._job.reporter)

    def _arrived(self, progress: _Progress, outcome: TransferOutcome) -> None:
        counted = {
            TransferOutcome.MOVED: "pushed",
            TransferOutcome.MOUNTED: "mounted",
            TransferOutcome.EXISTS: "existing",
        }[outcome]
        setattr(self.statistics, counted, getattr(self.statistics, counted) + 1)
        seconds = trio.current_time() - progress.started
        moved = progress.sent if outcome is TransferOutcome.MOVED else 0
        self._job.reporter.emit(TransferFinished(progress.transfer, moved, seconds, outcome))


def _name(layer: ImageLayer) -> Digest | NewLayer:
    return layer.descriptor.digest if isinstance(layer, BaseLayer) else layer


class _Progress:
    """How far one push has come."""

    def __init__(self, transfer: Transfer, reporter: Reporter) -> None:
        self.transfer = transfer
        self.started = trio.current_time()
        self.sent = 0
        self._reporter = reporter

    def advance(self, position: int) -> None:
        """``position`` bytes have gone; a request that is sent again begins anew."""
        self.sent = position
        if position:
            self._reporter.emit(TransferProgress(self.transfer, position))
