"""Streams: how many downloads are under way at once, and which of those that wait is next.

The largest blob takes longest to come and longest to unpack, so it goes first; what is small comes beside
it and after it, and its slow start costs nothing then. A large blob that is alone may have all streams, for
these are the windows that fill the link; one that is not alone has half of them, so that two processors
have something to unpack.

A small blob from a far host does not fill a link: it is here when its connection's window has just opened.
What it costs is round trips, seven for a megabyte, so such blobs come beside the others and all at once.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio

from asyncbuild.records import dataclass, field


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """In the queue, for whose blob."""

    size: int
    serial: int
    owner: Hashable
    granted: trio.Event = field(default_factory=trio.Event)

    @property
    def rank(self) -> tuple[int, int]:
        """The largest first, then whoever came first."""
        return -self.size, self.serial


class Streams:
    """At most ``count`` streams at once, and ``beside`` more of blobs that are brief."""

    def __init__(self, count: int, beside: int = 0) -> None:
        self.count = count
        self._beside = trio.CapacityLimiter(beside) if beside else None
        self._free = count
        self._share = max(1, count // 2)
        self._serial = 0
        self._waiting: list[_Place] = []
        self._held: Counter[Hashable] = Counter()

    @asynccontextmanager
    async def one(self, size: int, owner: Hashable, *, brief: bool = False) -> AsyncIterator[None]:
        """Have one stream for ``owner``, a blob of ``size`` bytes, until the context ends. ``brief``: it is
        here before its connection's window is open.
        """
        if brief and self._beside is not None:
            async with self._beside:
                yield
            return
        self._serial += 1
        place = _Place(size, self._serial, owner)
        insort(self._waiting, place, key=lambda each: each.rank)
        try:
            for _ in range(2):  # let all that begin together be compared; parts begin a step later
                await trio.lowlevel.checkpoint()
            self._grant()
            await place.granted.wait()
            yield
        finally:
            if place.granted.is_set():
                self._give_back(place)
            else:
                self._waiting.remove(place)
            self._grant()

    def _grant(self) -> None:
        while self._free and self._waiting:
            place = self._next()
            self._waiting.remove(place)
            self._free -= 1
            self._held[place.owner] += 1
            place.granted.set()

    def _next(self) -> _Place:
        """The largest blob's, or the largest's of those that have not had their share."""
        for place in self._waiting:
            if self._held[place.owner] < self._share:
                return place
        return self._waiting[0]

    def _give_back(self, place: _Place) -> None:
        self._free += 1
        self._held[place.owner] -= 1
        if not self._held[place.owner]:
            del self._held[place.owner]
