"""Turns: which blobs are unpacked next, while more of them arrive than there are workers.

A worker that follows a download is idle whenever that is slower than it. So while others wait, half of the
workers are for blobs that have arrived, and the others follow the largest of those that come, which would
take longest once they are there. Two may be followed in any case: as many as share the streams
(`asyncbuild.build.streams`), so their bytes come half as fast as the link is, and a processor has enough to
do. A blob of which nothing has come yet is not followed, however large: it waits for streams. When there
are no more blobs than workers, all are unpacked while they arrive. A small blob is never followed: it would
hold a worker while a large one, of which more comes, waits for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from asyncbuild.build.growing import GrowingFile

WORTH_FOLLOWING = 1 << 20
"""Bytes: less is unpacked in a moment, once it is there."""
_SHARING = 2
"""Blobs whose parts come side by side."""


class Turns:
    """At most ``count`` turns at once; blobs of ``least`` bytes are worth following."""

    def __init__(self, count: int, least: int = WORTH_FOLLOWING) -> None:
        self._count = count
        self._least = least
        self._free = trio.CapacityLimiter(count)
        self._followers = min(count, max(_SHARING, count // 2))
        self._pending: list[GrowingFile] = []
        self._waiting: list[GrowingFile] = []
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
            self._wake()

    async def _until_worth_it(self, blob: GrowingFile) -> bool:
        """Return when it is ``blob``'s time; whether it has a turn although it is still on its way."""
        self._waiting.append(blob)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, blob, nursery.cancel_scope)
                while len(self._pending) > self._count:
                    if self._followers and self._is_largest(blob):
                        nursery.cancel_scope.cancel()
                        return True
                    await self._changed.wait()
                nursery.cancel_scope.cancel()
            return False
        finally:
            self._waiting.remove(blob)
            self._wake()

    async def _watch(self, blob: GrowingFile, waiting: trio.CancelScope) -> None:
        """Let it be seen that the blob comes, and end its waiting when it has come."""
        with suppress(Exception):  # whoever reads it is told
            await blob.wait_size(0)
        self._wake()
        await blob.wait_settled()
        waiting.cancel()

    def _is_largest(self, blob: GrowingFile) -> bool:
        """Whether it comes, and is the largest of those that come and wait."""
        coming = [item.total or 0 for item in self._waiting if item.size and not item.complete]
        return blob.size > 0 and (blob.total or 0) >= max(coming, default=0)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
