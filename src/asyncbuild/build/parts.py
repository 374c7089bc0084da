"""The parts that a large blob is asked for in: which is next, and what is there without a gap. Pure.

A new connection carries ten segments in its first round trip and doubles that in each one: three MiB take
it eight round trips, eight take ten. So the parts of a far blob are small at first and grow. The link is
full sooner, with many connections; the first bytes, which unpacking waits for, are there sooner; and as no
two connections come to their end in the same moment, the link does not stand still for a round trip
between two parts. The last ones are small again, so that none is left alone on one connection. Where a
round trip costs nothing, all parts are large: there only their number counts.
"""

from __future__ import annotations

PART = 8 << 20
"""Bytes of the largest part: at 100 ms and 30 MB/s a third of a second, so a request more costs little."""
FIRST_PART = 3 << 20
_GROWTH = 128 << 10
_OF_THE_REST = 16


class Parts:
    """What is there of each part of a blob of ``total`` bytes, and what nobody fetches yet."""

    def __init__(self, total: int, first: int = FIRST_PART) -> None:
        """The first part has ``first`` bytes, each further one a little more, up to `PART`; but no part is
        more than a share of what is left, as long as that is more than ``first``.
        """
        self.total = total
        self.arrived = 0
        self._starts = [0]
        size = first
        while self._starts[-1] + size < total:
            self._starts.append(self._starts[-1] + size)
            left = total - self._starts[-1]
            size = max(first, min(size + _GROWTH, PART, left // _OF_THE_REST))
        self._done = [0] * len(self._starts)
        self._whole = 0  # parts that are complete, from the first on
        self._next = 0
        self._returned: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def complete(self) -> bool:
        """Whether every byte has arrived."""
        return self.arrived == self.total

    def take(self) -> int | None:
        """The first part that nobody has; None if there is none."""
        if self._returned:
            self._returned.sort(reverse=True)
            return self._returned.pop()
        if self._next >= len(self._starts):
            return None
        self._next += 1
        return self._next - 1

    def give_back(self, part: int) -> None:
        """Somebody else shall take what is missing of ``part``."""
        self._returned.append(part)

    def size(self, part: int) -> int:
        """Its bytes in all, those that are there too."""
        return self._end(part) - self._starts[part]

    def missing(self, part: int) -> tuple[int, int]:
        """The first byte of ``part`` that is not there, and the one behind its last."""
        return self._starts[part] + self._done[part], self._end(part)

    def add(self, part: int, count: int) -> int:
        """Note ``count`` more bytes of ``part``; the bytes of the blob without a gap."""
        self._done[part] += count
        self.arrived += count
        while self._whole < len(self._done) and self._done[self._whole] == self.size(self._whole):
            self._whole += 1
        if self._whole == len(self._done):
            return self.total
        return self._starts[self._whole] + self._done[self._whole]

    def _end(self, part: int) -> int:
        return self._starts[part + 1] if part + 1 < len(self._starts) else self.total
