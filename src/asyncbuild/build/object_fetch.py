"""Fetching a cached layer out of an object store, into a file that is read while it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from asyncbuild.build.growing import GrowingFile
from asyncbuild.cache.objects import ObjectCache
from asyncbuild.errors import AsyncbuildError, IntegrityError
from asyncbuild.image.manifest import Descriptor
from asyncbuild.records import dataclass
from asyncbuild.report.events import (
    Direction,
    Reporter,
    Transfer,
    TransferFinished,
    TransferProgress,
    TransferStarted,
)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectFetch:
    """One blob on its way; its bytes are checked by whoever reads them, its size here."""

    cache: ObjectCache
    descriptor: Descriptor
    file: GrowingFile
    reporter: Reporter

    async def run(self) -> None:
        """Fetch it all. What goes wrong is raised by the file's readers."""
        transfer = Transfer(Direction.PULL, "layer", self.cache.name, self.descriptor.digest)
        started = trio.current_time()
        self.reporter.emit(TransferStarted(transfer, self.descriptor.size))
        try:
            async with self.cache.read_blob(self.descriptor.digest) as pieces:
                await self.file.write_from(
                    _Exactly(pieces, self.descriptor),
                    lambda done: self.reporter.emit(TransferProgress(transfer, done)),
                )
        except AsyncbuildError as error:
            self.file.fail(error)
            return
        except BaseException as error:
            self.file.fail(error)
            raise
        seconds = trio.current_time() - started
        self.reporter.emit(TransferFinished(transfer, self.file.size, seconds))


class _Exactly:
    """The pieces of a layer, unless they are more or less than it has."""

    def __init__(self, pieces: AsyncIterator[bytes], descriptor: Descriptor) -> None:
        self._pieces = pieces
        self._descriptor = descriptor
        self._left = descriptor.size

    def __aiter__(self) -> _Exactly:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces, b"")
        self._left -= len(piece)
        if self._left < 0 or (self._left and not piece):
            text = f"layer {self._descriptor.digest}: it does not have the size that was promised"
            raise IntegrityError(text)
        if not piece:
            raise StopAsyncIteration
        return piece
