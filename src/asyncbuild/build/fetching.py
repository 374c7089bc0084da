"""Fetching one blob into a growing file: in one stream, or in ranges side by side.

One stream carries at most its window in each round trip, whatever the link could carry. So a large blob
is asked for in parts, several at a time, in ascending order: what is there without a gap grows as from one
stream, and can be unpacked meanwhile. A registry that does not know ranges answers the first part with
everything; then one stream it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import field

import trio

from asyncbuild.build.growing import GrowingFile, write_at
from asyncbuild.build.outcome import one_error
from asyncbuild.build.streams import Streams
from asyncbuild.image.manifest import Descriptor
from asyncbuild.records import dataclass
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.routing import BlobChunks

PART = 8 << 20
"""Bytes of one range: at 100 ms and 30 MB/s a third of a second, so a request more costs little."""
WORTH_SPLITTING = 2 * PART
MAX_STREAMS = 8

OnProgress = Callable[[int], None]


@dataclass(slots=True)
class _Parts:
    """What is there of each part, and what of the whole is there without a gap."""

    total: int
    done: list[int] = field(init=False)
    whole: int = 0  # parts that are complete, from the first on
    next: int = 0

    def __post_init__(self) -> None:
        self.done = [0] * -(-self.total // PART)

    def take(self) -> int | None:
        """The next part that nobody has."""
        if self.next >= len(self.done):
            return None
        self.next += 1
        return self.next - 1

    def bounds(self, part: int) -> tuple[int, int]:
        """Its first byte, and the one behind its last."""
        return part * PART, min((part + 1) * PART, self.total)

    def add(self, part: int, count: int) -> int:
        """Note ``count`` more bytes of ``part``; the bytes without a gap."""
        self.done[part] += count
        while self.whole < len(self.done) and self._is_whole(self.whole):
            self.whole += 1
        rest = self.done[self.whole] if self.whole < len(self.done) else 0
        return min(self.whole * PART, self.total) + rest

    def _is_whole(self, part: int) -> bool:
        start, end = self.bounds(part)
        return self.done[part] == end - start


@dataclass(frozen=True, slots=True, eq=False)
class Fetch:
    """One blob on its way: from where, into what, and how many streams all blobs may have together."""

    client: RegistryClient
    repository: str
    descriptor: Descriptor
    file: GrowingFile
    streams: Streams
    on_progress: OnProgress

    async def run(self) -> None:
        """Fetch it all; fails the file's readers with whatever goes wrong, and raises it."""
        try:
            with one_error():
                if self.descriptor.size < WORTH_SPLITTING or not await self._in_parts():
                    await self._in_one()
        except BaseException as error:
            self.file.fail(error)
            raise
        self.file.finish()

    async def _in_one(self) -> None:
        async with self._turn(), self.client.open_blob(self.repository, self.descriptor) as chunks:
            await self.file.fill(chunks, self.on_progress)

    async def _in_parts(self) -> bool:
        """Fetch part by part; False if the registry turned out not to know ranges."""
        parts = _Parts(self.descriptor.size)
        first = parts.take()
        assert first is not None
        with self.file.writing() as descriptor:
            async with trio.open_nursery() as nursery:
                async with self._turn(), self._open(parts, first) as chunks:
                    if not chunks.ranged:
                        return False
                    for _ in range(min(MAX_STREAMS, len(parts.done)) - 1):
                        nursery.start_soon(self._stream, parts, descriptor)
                    await self._copy(parts, first, chunks, descriptor)
                await self._stream(parts, descriptor)
        return True

    async def _stream(self, parts: _Parts, descriptor: int) -> None:
        """Fetch one part after the other until nobody has to take any."""
        while (part := parts.take()) is not None:
            async with self._turn(), self._open(parts, part) as chunks:
                await self._copy(parts, part, chunks, descriptor)

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return self.streams.one(self.descriptor.size)

    def _open(self, parts: _Parts, part: int) -> AbstractAsyncContextManager[BlobChunks]:
        start, end = parts.bounds(part)
        return self.client.open_blob(self.repository, self.descriptor, start=start, end=end)

    async def _copy(self, parts: _Parts, part: int, chunks: BlobChunks, descriptor: int) -> None:
        position, _ = parts.bounds(part)
        async for chunk in chunks:
            await trio.to_thread.run_sync(write_at, descriptor, chunk, position, self.file.path)
            position += len(chunk)
            self.file.advance(parts.add(part, len(chunk)))
            self.on_progress(sum(parts.done))
