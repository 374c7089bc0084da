"""What a request may carry: bytes, a file, or chunks that are still being made.

A body that is `replayable` may be sent again after a failure. None is an async generator: a request that
ends early leaves its body half read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import trio

from asyncbuild.errors import StoreError
from asyncbuild.records import dataclass

CHUNK_BYTES = 1 << 20


class Reading(Protocol):
    """One reading of a body."""

    async def next_chunk(self) -> bytes:
        """The next bytes, b"" at the end."""

    def close(self) -> None:
        """Free what it holds; harmless to call twice."""


class Body(Protocol):
    """A request's body; ``size`` in bytes, None where it is not known before the end."""

    @property
    def size(self) -> int | None:
        """Bytes in total."""

    @property
    def replayable(self) -> bool:
        """Whether `read` may be called again."""

    def read(self, start: int = 0) -> Reading:
        """Begin a reading at byte ``start``."""


@dataclass(frozen=True, slots=True)
class BytesBody:
    """Bytes that are at hand."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes in total."""
        return len(self.data)

    @property
    def replayable(self) -> bool:
        """Always."""
        return True

    def read(self, start: int = 0) -> Reading:
        """From byte ``start`` on."""
        return _BytesReading(self.data, start)


class _BytesReading:
    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._place = start

    async def next_chunk(self) -> bytes:
        await trio.lowlevel.checkpoint()
        chunk = self._data[self._place : self._place + CHUNK_BYTES]
        self._place += len(chunk)
        return chunk

    def close(self) -> None:
        """Nothing to free."""


@dataclass(frozen=True, slots=True)
class FileBody:
    """The first ``size`` bytes of a file on this machine, read by threads a MiB at a time."""

    path: str
    size: int

    @property
    def replayable(self) -> bool:
        """Always."""
        return True

    def read(self, start: int = 0) -> Reading:
        """From byte ``start`` on; raises `StoreError` if the file cannot be opened."""
        return _FileReading(self.path, start, self.size)


class _FileReading:
    def __init__(self, path: str, start: int, size: int) -> None:
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115  (closed by close)
            self._file.seek(start)
        except OSError as error:
            raise StoreError(f"{path} cannot be sent: {error.strerror}") from None
        self._path = path
        self._left = size - start

    async def next_chunk(self) -> bytes:
        """Raises `StoreError` if the file is shorter than it was said to be, or cannot be read."""
        wanted = min(CHUNK_BYTES, self._left)
        if wanted == 0:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            chunk: bytes = await trio.to_thread.run_sync(self._file.read, wanted)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be sent: {error.strerror}") from None
        if not chunk:
            raise StoreError(f"{self._path} is shorter than it was")
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        self._file.close()


class ChunksBody:
    """Chunks that someone makes while they are sent; can be sent once. The maker closes ``chunks``."""

    replayable = False

    def __init__(self, chunks: AsyncIterator[bytes], size: int | None = None) -> None:
        self.size = size
        self.sent = 0
        self._chunks = chunks

    def read(self, start: int = 0) -> Reading:
        """Itself: there is one reading."""
        assert start == 0
        return self

    async def next_chunk(self) -> bytes:
        """The next chunk; empty chunks are passed over."""
        async for chunk in self._chunks:
            if chunk:
                self.sent += len(chunk)
                return chunk
        return b""

    def close(self) -> None:
        """Nothing of ours to free."""


class Part:
    """The bytes of ``body`` from ``start`` on, at most ``most`` of them; counts what one reading took.

    ``size`` is known where the whole body's is.
    """

    def __init__(self, body: Body, start: int, most: int | None = None) -> None:
        self.replayable = body.replayable
        self.taken = 0
        self._body = body
        self._start = start
        self._most = most

    @property
    def size(self) -> int | None:
        """Bytes of this part."""
        if self._body.size is None:
            return None
        rest = self._body.size - self._start
        return rest if self._most is None else min(rest, self._most)

    def read(self, start: int = 0) -> Reading:
        """Begin a reading at byte ``start`` of the part."""
        self.taken = start
        return _PartReading(self, self._body.read(self._start + start), self._most)


class _PartReading:
    def __init__(self, part: Part, reading: Reading, most: int | None) -> None:
        self._part = part
        self._reading = reading
        self._most = most

    async def next_chunk(self) -> bytes:
        if self._most is not None and self._part.taken >= self._most:
            return b""
        chunk = await self._reading.next_chunk()
        if self._most is not None:
            chunk = chunk[: self._most - self._part.taken]
        self._part.taken += len(chunk)
        return chunk

    def close(self) -> None:
        self._reading.close()
