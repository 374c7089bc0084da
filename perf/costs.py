"""What runs cost on this machine, remembered from one bench to the next: for planning only, never as a result."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perf.bases import cache_directory
from perf.results import Run

#: Tool, job, state, RTT in milliseconds.
Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a run, and the cores that it used on average with its registry and link."""

    wall: float
    cores: float


class Costs:
    """What is known of runs alone on the machine, and what follows from it for the others."""

    def __init__(self, known: dict[Key, Cost] | None = None) -> None:
        self._known = known or {}

    def learn(self, runs: Iterable[Run]) -> None:
        """Remember those that succeeded and had the machine for themselves, the last of each."""
        for run in runs:
            if run.succeeded and not run.beside:
                self._known[key_of(run)] = Cost(run.wall, run.cores)

    def wall(self, key: Key) -> float | None:
        """Seconds that a run will take: remembered, or on the line through the two nearest RTTs that are (or as
        many as at the only one).
        """
        *case, rtt = key
        points = sorted(
            (abs(ms - rtt), ms, cost.wall)
            for (*known, ms), cost in self._known.items()
            if known == case
        )
        if not points:
            return None
        (away, first, wall), *more = points
        if away == 0 or not more:
            return wall
        _, second, other = more[0]
        slope = (other - wall) / (second - first)
        return max(wall + slope * (rtt - first), 0.0)

    def cores(self, key: Key) -> float | None:
        """Cores that a run uses at most on average: as remembered of the longest RTT up to this one, since what
        a longer one adds is waiting.
        """
        *case, rtt = key
        found = [
            (ms, cost.cores)
            for (*known, ms), cost in self._known.items()
            if known == case and ms <= rtt
        ]
        return max(found)[1] if found else None

    def save(self, path: Path) -> None:
        """Write what is known."""
        rows = [[*key, cost.wall, cost.cores] for key, cost in sorted(self._known.items())]
        path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def key_of(run: Run) -> Key:
    """What its cost is remembered by."""
    return run.tool, run.job, run.state, round(run.rtt * 1000)


def costs_file() -> Path:
    """Where this machine's are."""
    return cache_directory() / "costs.json"


def load_costs(path: Path) -> Costs:
    """What `Costs.save` wrote; nothing known where nothing is there."""
    if not path.exists():
        return Costs()
    rows = json.loads(path.read_text())
    return Costs({(t, j, s, ms): Cost(wall, cores) for t, j, s, ms, wall, cores in rows})
