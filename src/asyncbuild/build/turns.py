"""Turns: which blobs are unpacked next, while more of them arrive than there are workers.

A worker that follows a download is idle most of the time. So while others wait, only a blob that has
arrived gets a turn; when there are no more blobs than workers, they are unpacked while they arrive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from asyncbuild.build.growing import GrowingFile


class Turns:
    """At most ``count`` turns at once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = trio.CapacityLimiter(count)
        self._pending = 0
        self._fewer = trio.Event()

    @asynccontextmanager
    async def turn(self, blob: GrowingFile) -> AsyncIterator[None]:
        """Wait for a turn to read ``blob``, and have it until the context ends."""
        self._pending += 1
        try:
            await trio.lowlevel.checkpoint()  # let all that begin together be counted
            await self._until_worth_it(blob)
            async with self._free:
                yield
        finally:
            self._pending -= 1
            self._fewer.set()
            self._fewer = trio.Event()

    async def _until_worth_it(self, blob: GrowingFile) -> None:
        async with trio.open_nursery() as nursery:

            async def arrived() -> None:
                await blob.wait_settled()
                nursery.cancel_scope.cancel()

            nursery.start_soon(arrived)
            while self._pending > self._count:
                await self._fewer.wait()
            nursery.cancel_scope.cancel()
