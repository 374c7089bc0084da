"""Packing: what a step changed becomes a layer, off the executor's path.

The layer is handed out before a byte of it is written: who publishes it reads along while a worker
packs. When its digest is known the blob is in the store, by rename.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from pathlib import Path

import trio

from asyncbuild.build.futures import Future
from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.job import Job
from asyncbuild.build.layers import NewLayer
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.compression import Compression
from asyncbuild.layers.pack import PackedLayer
from asyncbuild.layers.trim import Trim
from asyncbuild.records import replace
from asyncbuild.report.events import LayerPacked, Step

OnProgress = Callable[[int], None]
Work = Callable[[Path, OnProgress], Awaitable[PackedLayer]]
"""Packs into a new file at the path, and tells how many of its bytes are final."""
Reading = Callable[[ChangeSet], AbstractAsyncContextManager[object]]


class Packer:
    """Makes layers of what steps changed; all of them with one compression, and trimmed alike."""

    def __init__(
        self,
        job: Job,
        compression: Compression,
        trim: Trim | None = None,
        reading: Reading = nullcontext,
    ) -> None:
        """``reading``: around what reads the files of a change set."""
        self._job = job
        self._reading = reading
        self._compression = compression
        self._trim = trim or Trim()
        self._begun: list[Future[PackedLayer]] = []

    def changes(
        self, step: Step, changes: ChangeSet, emptied: frozenset[str] = frozenset()
    ) -> NewLayer:
        """The layer of a change set, without what is in the directories ``emptied``."""
        trim = replace(self._trim, emptied=emptied)

        async def work(path: Path, on_progress: OnProgress) -> PackedLayer:
            return await self._pack_changes(changes, trim, path, on_progress)

        return self._begin(step, trim, work)

    def upper(
        self,
        step: Step,
        upper: Path,
        lowers: Sequence[Path],
        emptied: frozenset[str] = frozenset(),
    ) -> NewLayer:
        """The layer of an overlay's upper directory; ``lowers`` are what it lay upon, topmost first."""
        trim = replace(self._trim, emptied=emptied)

        async def work(path: Path, on_progress: OnProgress) -> PackedLayer:
            return await self._job.workers.pack_upper(
                upper, lowers, path, self._compression, on_progress, trim=trim
            )

        return self._begin(step, trim, work)

    async def _pack_changes(
        self, changes: ChangeSet, trim: Trim, path: Path, on_progress: OnProgress
    ) -> PackedLayer:
        trimmed = trim(changes)
        async with self._reading(changes):
            return await self._job.workers.pack(trimmed, path, self._compression, on_progress)

    def _begin(self, step: Step, trim: Trim, work: Work) -> NewLayer:
        file = self._job.closed_at_end(GrowingFile(self._job.store.new_blob()))
        packed = self._job.ledger.spawn(
            self._job.nursery, f"pack {step.label}", self._pack, step, file, work
        )
        self._begun.append(packed)
        return NewLayer(step.label, file, packed, whole=trim == Trim())

    async def settle(self) -> None:
        """Return when no layer is being packed any more, whether that went well or not."""
        for packed in self._begun:
            with suppress(Exception):  # it is told where the layer is awaited
                await packed.wait()

    async def _pack(self, step: Step, file: GrowingFile, work: Work) -> PackedLayer:
        started = trio.current_time()
        try:
            packed = await work(file.path, file.grown)
            descriptor = packed.descriptor
            path = await trio.to_thread.run_sync(
                self._job.store.commit_blob, file.path, descriptor.digest, descriptor.size
            )
        except BaseException as error:
            file.fail(error)
            raise
        file.advance(descriptor.size)
        file.finish(path)
        seconds = trio.current_time() - started
        self._job.reporter.emit(
            LayerPacked(
                step,
                descriptor.digest,
                packed.diff_id,
                packed.uncompressed_size,
                descriptor.size,
                seconds,
            )
        )
        return packed
