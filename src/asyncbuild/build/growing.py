"""A file that one task writes while others read it.

Downloads land in one and are unpacked from it; packed layers land in one and are uploaded from it. So
a slow reader never holds up a fast one, a second destination costs no second pass, and no blob is ever
whole in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from asyncbuild.build.futures import Abandoned, fresh
from asyncbuild.errors import IntegrityError, StoreError
from asyncbuild.image.manifest import Descriptor
from asyncbuild.records import dataclass

CHUNK = 1 << 20
_PIECE = 64 << 10


def _ignore(position: int) -> None:
    """Nobody wants to know how far it has come."""


class GrowingFile:
    """``path`` holds ``size`` bytes that may be read; ``complete`` once there will be no more."""

    def __init__(self, path: Path, total: int | None = None) -> None:
        self.path = path
        self.total = total
        self.size = 0
        self.complete = False
        self._error: BaseException | None = None
        self._grown = trio.Event()
        self._descriptor: int | None = None

    @classmethod
    def whole(cls, path: Path) -> GrowingFile:
        """A file that is complete already."""
        grown = cls(path, path.stat().st_size)
        grown.advance(grown.total or 0)
        grown.finish()
        return grown

    def advance(self, size: int) -> None:
        """``size`` bytes (from the start) are in the file now."""
        self.size = max(self.size, size)
        self._wake()

    def grown(self, size: int) -> None:
        """As `advance`, by a writer in another process: what it wrote stays readable through a rename."""
        self.open()
        self.advance(size)

    def finish(self, path: Path | None = None) -> None:
        """Everything is there; ``path`` is where the file lives from now on."""
        if path is not None:
            self.path = path
        self.complete = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        """There will be no more bytes, because of ``error``; readers raise a copy of it."""
        self._error = error if isinstance(error, Exception) else Abandoned(str(self.path))
        self._wake()

    def open(self) -> None:
        """Open for reading once, so that a rename (or a removal) of the file does not matter."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the descriptor for reading."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def wait_complete(self) -> None:
        """Return when everything is there; raise what the writer failed with."""
        while not self.complete:
            await self._wait_growth()

    async def wait_settled(self) -> None:
        """Return when there will be no more bytes, for whatever reason."""
        while not self.complete and self._error is None:
            await self._grown.wait()

    async def write_from(
        self, chunks: AsyncIterator[bytes], on_progress: Callable[[int], None] = _ignore
    ) -> None:
        """Write all ``chunks`` to a new file at ``path`` and finish; fails readers on any error."""
        try:
            await self.fill(chunks, on_progress)
        except BaseException as error:
            self.fail(error)
            raise
        self.finish()

    async def fill(
        self,
        chunks: AsyncIterator[bytes],
        on_progress: Callable[[int], None] = _ignore,
        position: int = 0,
    ) -> None:
        """Write all ``chunks`` to the file at ``path``, new or not, from byte ``position`` on."""
        with self.writing() as descriptor:
            async for chunk in chunks:
                await trio.to_thread.run_sync(write_at, descriptor, chunk, position, self.path)
                position += len(chunk)
                self.advance(position)
                on_progress(position)

    @contextmanager
    def writing(self) -> Iterator[int]:
        """A descriptor to write with; readers have theirs from here on."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self.open()
            yield descriptor
        finally:
            os.close(descriptor)

    def tail(self, on_progress: Callable[[int], None] = _ignore, start: int = 0) -> Tail:
        """Read from byte ``start``, waiting for what is not there yet; ``on_progress`` gets positions."""
        return Tail(self, on_progress, start)

    def whole_or_tail(self) -> int | Tail:
        """All of it: a new descriptor at its first byte if it is complete, else a reading that waits."""
        if not self.complete:
            return self.tail()
        self.open()  # the file may be renamed at any time
        return os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC)

    async def wait_size(self, size: int) -> None:
        """Return when more than ``size`` bytes are there, or all of them."""
        while not self.complete and self.size <= size:
            await self._wait_growth()

    async def read_at(self, position: int) -> bytes:
        """The next bytes from ``position`` on, at most a MiB; empty at the end."""
        await self.wait_size(position)
        want = min(CHUNK, self.size - position)
        if want <= 0:
            return b""
        self.open()  # here, where no two do it at once
        data = await trio.to_thread.run_sync(self._read, want, position)
        if not data:
            raise StoreError(f"{self.path} is shorter than what was written to it")
        return data

    def _read(self, count: int, position: int) -> bytes:
        assert self._descriptor is not None
        return os.pread(self._descriptor, count, position)

    def first(self, size: int) -> Iterator[bytes]:
        """The first ``size`` bytes, which are there, once more, in pieces. Blocks."""
        for position in range(0, size, _PIECE):
            yield self._read(min(_PIECE, size - position), position)

    async def _wait_growth(self) -> None:
        if self._error is not None:
            raise fresh(self._error) from self._error
        await self._grown.wait()
        if self._error is not None:
            raise fresh(self._error) from self._error

    def _wake(self) -> None:
        self._grown.set()
        self._grown = trio.Event()


class Tail:
    """One reading of a growing file: an async iterator, not a generator, so it may be left half read."""

    def __init__(
        self, file: GrowingFile, on_progress: Callable[[int], None], start: int = 0
    ) -> None:
        self._file = file
        self._on_progress = on_progress
        self.position = start

    def __aiter__(self) -> Tail:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def next_chunk(self) -> bytes:
        """The next bytes, b"" at the end; asking for more says that the last ones are dealt with."""
        self._on_progress(self.position)
        chunk = await self._file.read_at(self.position)
        self.position += len(chunk)
        return chunk

    def close(self) -> None:
        """Nothing to free: the file closes its descriptor."""


@dataclass(frozen=True, slots=True)
class GrowingBody:
    """A growing file as what a request carries; can be sent again, from any byte on.

    ``total``: its final size in bytes, where that is known before it is complete.
    """

    file: GrowingFile
    total: int | None = None
    on_progress: Callable[[int], None] = _ignore

    @property
    def size(self) -> int | None:
        """Bytes in total; None as long as nobody knows."""
        return self.file.size if self.total is None and self.file.complete else self.total

    @property
    def replayable(self) -> bool:
        """Always."""
        return True

    def read(self, start: int = 0) -> Tail:
        """From byte ``start`` on."""
        return self.file.tail(self.on_progress, start)


def write_at(descriptor: int, data: bytes, position: int, path: Path) -> None:
    """Write all of ``data`` at ``position``; `StoreError` names ``path``. Blocks."""
    view = memoryview(data)
    try:
        while view:
            count = os.pwrite(descriptor, view, position)
            view, position = view[count:], position + count
    except OSError as error:
        raise StoreError.of(f"cannot write {path}", error) from error


def verify_blob(path: Path, descriptor: Descriptor) -> None:
    """Raise `IntegrityError` unless the file holds the blob's bytes. Blocks."""
    found = hashlib.new(descriptor.digest.algorithm)
    buffer = bytearray(CHUNK)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found.update(memoryview(buffer)[:count])
    if found.hexdigest() != descriptor.digest.hex or os.stat(path).st_size != descriptor.size:
        raise IntegrityError(f"layer {descriptor.digest}: its bytes do not match its digest")
