"""One measured figure, and how it is taken: the best of a few passes, on whatever core is free."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

PASSES = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """``name`` stays the same from release to release; ``value`` in ``unit``; CPU of this process in
    seconds.
    """

    name: str
    value: float
    unit: str
    seconds: float
    cpu: float

    def line(self) -> str:
        """For people."""
        cost = f"({self.seconds * 1000:.1f} ms wall, {self.cpu * 1000:.1f} ms CPU of this process)"
        return f"{self.name:24} {self.value:12.1f} {self.unit:10} {cost}"


def rate(name: str, amount: float, unit: str, work: Callable[[], object]) -> Figure:
    """``amount`` per second of ``work``, the fastest of `PASSES`."""
    taken = best_of(work, PASSES)
    return Figure(name, amount / taken[0], unit, *taken)


def duration(name: str, work: Callable[[], object], passes: int = 7) -> Figure:
    """Milliseconds of ``work``, the fastest of ``passes``."""
    taken = best_of(work, passes)
    return Figure(name, taken[0] * 1000, "ms", *taken)


def best_of(work: Callable[[], object], passes: int) -> tuple[float, float]:
    """The fastest of ``passes``: seconds, and CPU seconds of this process."""
    return min(_timed(work) for _ in range(passes))


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def with_children(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one pass, and CPU seconds of this process and of those that it waited for meanwhile."""
    before, wall = os.times(), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - wall, os.times()
    return seconds, sum(after[:4]) - sum(before[:4])
