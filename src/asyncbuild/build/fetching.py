"""Fetching one blob into a growing file: in one stream, or in parts side by side.

One stream carries at most its window in each round trip, whatever the link could carry. So a large blob
is asked for in parts, as many at a time as `Streams` grants it, in ascending order: what is there without a
gap grows as from one stream, and can be unpacked meanwhile. All of them ask at once: a round trip to find
out whether the registry knows ranges would cost more than the few requests that are broken off where it
does not. There one stream goes on from what has arrived, and the next blob is not asked for in parts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from asyncbuild.build.growing import GrowingFile, write_at
from asyncbuild.build.outcome import one_error
from asyncbuild.build.parts import FIRST_PART, PART, Parts
from asyncbuild.build.streams import Streams
from asyncbuild.errors import RateLimited, RegistryUnavailable
from asyncbuild.image.manifest import Descriptor
from asyncbuild.records import dataclass
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.routing import BlobChunks

WORTH_SPLITTING = 2 * PART
STEADY_STREAMS = 16
"""Of one blob, once their windows are open: more would only lie behind a gap."""
BRIEF = 2 << 20
"""Bytes: what a new connection carries in eight round trips, with its window still opening."""
NEAR_STREAMS = 8
"""Of one blob from a near host: there is no slow start to share, and each costs memory."""

OnProgress = Callable[[int], None]


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
                if not (self._is_worth_splitting() and await self._in_parts()):
                    await self._in_one()
        except BaseException as error:
            self.file.fail(error)
            raise
        self.file.finish()

    def _is_worth_splitting(self) -> bool:
        large = self.descriptor.size >= WORTH_SPLITTING
        return large and self.client.knows_ranges(self.repository)

    async def _in_one(self) -> None:
        """Fetch what is missing behind the bytes that are there without a gap."""
        start = self.file.size
        async with (
            self._turn(),
            self.client.open_blob(self.repository, self.descriptor, start=start) as chunks,
        ):
            await self.file.fill(chunks, self.on_progress, start)

    async def _in_parts(self) -> bool:
        """Fetch part by part; False if the registry turned out not to know ranges."""
        near = self.client.is_near(self.repository)
        parts = Parts(self.descriptor.size, PART if near else FIRST_PART)
        with self.file.writing() as descriptor:
            async with trio.open_nursery() as nursery:
                most = NEAR_STREAMS if near else self.streams.count
                count = min(most, len(parts))
                crowd = _Crowd(parts, descriptor, nursery.cancel_scope, count)
                for _ in range(count):
                    nursery.start_soon(self._stream, crowd)
        return parts.complete

    async def _stream(self, crowd: _Crowd) -> None:
        """Fetch one part after the other until nobody has to take any.

        A host that has had enough of so many connections says so to some of them: these leave their parts
        to the others.
        """
        while (part := crowd.parts.take()) is not None:
            try:
                await self._fetch(crowd, part)
            except (RateLimited, RegistryUnavailable):
                crowd.parts.give_back(part)
                if crowd.present == 1:
                    raise
                break
            if crowd.present > STEADY_STREAMS:
                break
        crowd.present -= 1

    async def _fetch(self, crowd: _Crowd, part: int) -> None:
        async with self._turn():
            start, end = crowd.parts.missing(part)
            async with self.client.open_blob(
                self.repository, self.descriptor, start=start, end=end
            ) as chunks:
                if not chunks.ranged:
                    crowd.scope.cancel()
                await self._copy(crowd, part, chunks)

    async def _copy(self, crowd: _Crowd, part: int, chunks: BlobChunks) -> None:
        position, _ = crowd.parts.missing(part)
        async for chunk in chunks:
            await trio.to_thread.run_sync(
                write_at, crowd.descriptor, chunk, position, self.file.path
            )
            position += len(chunk)
            self.file.advance(crowd.parts.add(part, len(chunk)))
            self.on_progress(crowd.parts.arrived)

    def _turn(self) -> AbstractAsyncContextManager[None]:
        size = self.descriptor.size
        brief = size <= BRIEF and not self.client.is_near(self.repository)
        return self.streams.one(size, self.descriptor.digest, brief=brief)


@dataclass(slots=True)
class _Crowd:
    """The streams of one blob: what they share, and how many of them are left."""

    parts: Parts
    descriptor: int
    scope: trio.CancelScope
    present: int
