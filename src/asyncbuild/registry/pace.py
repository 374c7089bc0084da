"""What counts as progress of a body: a trickle does not. Pure; times come in as arguments.

A read that waits forever is ended by a timeout, but a server that sends a byte now and then never lets it
fire. So of every body at least ``least`` bytes must come in ``seconds`` of waiting, however large it is:
there is no limit on the whole. What the reader does between its reads is not counted.
"""

from __future__ import annotations

from asyncbuild.records import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """The slowest that is progress: about 2 KB/s, which 16 downloads over a modem would reach."""

    least: int = 64 << 10
    seconds: float = 30.0

    def seconds_for(self, count: int) -> float:
        """How long ``count`` bytes may take to go."""
        return self.seconds * max(1.0, count / self.least)


class Progress:
    """How one body comes along."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._missing = pace.least
        self._waited = 0.0

    @property
    def seconds_left(self) -> float:
        """How long the next bytes may be waited for."""
        return max(0.0, self._pace.seconds - self._waited)

    def moved(self, count: int, waited: float) -> None:
        """``count`` bytes came after ``waited`` seconds."""
        self._missing -= count
        self._waited += waited
        if self._missing <= 0:
            self._missing = self._pace.least
            self._waited = 0.0
