"""Turns: which blobs are unpacked next, while more of them arrive than there are workers.

A worker that follows a download is idle most of the time. So while others wait, half of the workers are
for blobs that have arrived; the others follow the largest of those on their way, which would take longest
once they are there. When there are no more blobs than workers, all are unpacked while they arrive. A small
blob is never followed: it would hold a worker while a large one, of which more comes, waits for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from asyncbuild.build.growing import GrowingFile

WORTH_FOLLOWING = 1 << 20
"""Bytes: less is unpacked in a moment, once it is there."""


class Turns:
    """At most ``count`` turns at once; blobs of ``least`` bytes are worth following."""

    def __init__(self, count: int, least: int = WORTH_FOLLOWING) -> None:
        self._count = count
        self._least = least
        self._free = trio.CapacityLimiter(count)
        self._followers = max(1, count // 2)
        self._pending: list[GrowingFile] = []
        self._changed = trio.Event()

    @asynccontextmanager
    async def turn(self, blob: GrowingFile) -> AsyncIterator[None]:
        """Wait for a turn to read ``blob``, and have it until the context ends."""
        if blob.total is not None and blob.total < self._least:
            await blob.wait_settled()
        self._pending.append(blob)
        follows = False
        try:
            await trio.lowlevel.checkpoint()  # let all that begin together be counted
            follows = await self._until_worth_it(blob)
            self._followers -= follows
            async with self._free:
                yield
        finally:
            self._pending.remove(blob)
            self._followers += follows
            self._changed.set()
            self._changed = trio.Event()

    async def _until_worth_it(self, blob: GrowingFile) -> bool:
        """Return when it is ``blob``'s time; whether it has a turn although it is still on its way."""
        async with trio.open_nursery() as nursery:

            async def arrived() -> None:
                await blob.wait_settled()
                nursery.cancel_scope.cancel()

            nursery.start_soon(arrived)
            while len(self._pending) > self._count:
                if self._followers and self._is_largest(blob):
                    nursery.cancel_scope.cancel()
                    return True
                await self._changed.wait()
            nursery.cancel_scope.cancel()
        return False

    def _is_largest(self, blob: GrowingFile) -> bool:
        """Of those on their way."""
        coming = [item.total or 0 for item in self._pending if not item.complete]
        return (blob.total or 0) >= max(coming, default=0)
