"""Streams: how many downloads are under way at once, and which of those that wait is next.

The largest blob takes longest to come and longest to unpack, so it goes first, with all of its ranges; what
is small comes beside it and after it, and its slow start costs nothing then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush

import trio


class Streams:
    """At most ``count`` streams at once."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._serial = 0
        self._waiting: list[tuple[int, int, trio.Event]] = []

    @asynccontextmanager
    async def one(self, size: int) -> AsyncIterator[None]:
        """Have one stream for a blob of ``size`` bytes until the context ends."""
        granted = trio.Event()
        self._serial += 1
        heappush(self._waiting, (-size, self._serial, granted))
        try:
            await trio.lowlevel.checkpoint()  # let all that begin together be compared
            self._grant()
            await granted.wait()
            yield
        finally:
            if granted.is_set():
                self._free += 1
            granted.set()  # who left while waiting is passed over
            self._grant()

    def _grant(self) -> None:
        while self._free and self._waiting:
            _, _, granted = heappop(self._waiting)
            if not granted.is_set():
                granted.set()
                self._free -= 1
