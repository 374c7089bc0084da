"""Operations by kinds of requests by faults, against real registries; what each must come to.

``just real-faults`` plays every case and prints what came of them; the test plays every eighth.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import trio

from asyncbuild.testing.fault_scripts import NAMED
from support.real_faults import (
    OPERATIONS,
    Outcome,
    Site,
    fill_cache,
    kind_of,
    make_layout,
    play,
    read_by_skopeo,
    script,
    site,
)
from support.tokens import ADMIN

AT_ONCE = 8
_WAITING = frozenset({"hang", "hang-in-the-middle", "trickle", "stalled-range", "429", "503"})
"""Faults that cost time and no work: of these twice as many at once, beside the others."""

EXIT_CODES: Mapping[str, frozenset[int]] = MappingProxyType(
    {
        "wrong-digest": frozenset({69, 73}),
        "401-always": frozenset({77, 73}),
        "403": frozenset({77, 73}),
        "404": frozenset({66, 69, 73}),
        "416": frozenset({69, 73}),
        "503-always": frozenset({69, 73}),
    }
)
"""What else may come of these faults than the right image; all others cost nothing but time."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A fault at the first request of a kind that an operation makes."""

    operation: str
    kind: str
    fault: str

    def __str__(self) -> str:
        return f"{self.fault} at {self.kind} of {self.operation}"


def allowed_codes(cell: Cell) -> frozenset[int]:
    """With what errors a case may end. A login that the token service takes for nobody's gives a token for
    little; that is final where nothing more was asked for than the request wants.
    """
    refused = cell.fault == "401-once" and cell.kind == "token GET"
    return frozenset({77}) if refused else EXIT_CODES.get(cell.fault, frozenset())


def faults_at(kind: str) -> tuple[str, ...]:
    """The faults that a kind of requests is struck by."""
    return (*NAMED, "stalled-range") if kind == "blob GET" else tuple(NAMED)


def every(step: int, cells: Iterable[Cell]) -> list[Cell]:
    """Of each kind's faults every ``step``th, beginning with another one at each kind; and all stalled
    ranges, which few kinds have.
    """
    chosen: list[Cell] = []
    kinds: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        kinds.setdefault((cell.operation, cell.kind), []).append(cell)
    for number, found in enumerate(kinds.values()):
        first = number * 3 % step
        chosen += [
            cell
            for place, cell in enumerate(found)
            if place % step == first or cell.fault == "stalled-range"
        ]
    return chosen


@dataclass(slots=True)
class RealMatrix:
    """The matrix on one site."""

    site: Site
    right: dict[str, Outcome] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    outcomes: dict[Cell, Outcome] = field(default_factory=dict)

    async def prepare(self) -> None:
        """Carry every operation out without a fault, which shows what it asks for."""
        await make_layout(self.site)
        self.right["fill the cache"] = await play(self.site, fill_cache, user=ADMIN)
        for name, operation in OPERATIONS.items():
            outcome = self.right[name] = await play(self.site, operation)
            found = {kind_of(entry) for entry in outcome.requests}
            self.cells += [
                Cell(name, kind, fault) for kind in sorted(found) for fault in faults_at(kind)
            ]

    async def play(self, cells: Iterable[Cell]) -> None:
        """Play cells, some at once."""
        waiting: list[Cell] = []
        working: list[Cell] = []
        for cell in cells:
            (waiting if cell.fault in _WAITING else working).append(cell)

        async def some(left: list[Cell]) -> None:
            while left:
                cell = left.pop()
                faults = script(cell.fault, cell.kind)
                self.outcomes[cell] = await play(self.site, OPERATIONS[cell.operation], faults)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(some, working)
            for _ in range(2 * AT_ONCE):
                nursery.start_soon(some, waiting)

    async def wrong(self) -> list[str]:
        """Everything that is not as it must be; skopeo reads every image."""
        found = [
            f"{name} without faults: {outcome.error} {outcome.wrong}"
            for name, outcome in self.right.items()
            if outcome.error is not None or outcome.wrong
        ]
        for cell, outcome in sorted(self.outcomes.items()):
            found += [f"{cell}: {text}" for text in self._judged(cell, outcome)]
        outcomes = [*self.right.values(), *self.outcomes.values()]
        places = {item.place: item.digest for item in outcomes if item.place and item.digest}
        return found + await read_by_skopeo(self.site, places)

    def _judged(self, cell: Cell, outcome: Outcome) -> list[str]:
        wrong = list(outcome.wrong)
        if not outcome.struck:
            wrong.append("there was no such request")
        error = outcome.error
        if error is None and outcome.digest != self.right[cell.operation].digest:
            wrong.append("another image")
        if error is not None and error.exit_code not in allowed_codes(cell):
            asked = ", ".join(
                f"{entry.method} {entry.path[-60:]} {entry.status}" for entry in outcome.requests
            )
            wrong.append(f"{outcome.name} ({error.exit_code}): {error}; asked: {asked}")
        return wrong

    def counts(self) -> dict[str, object]:
        """What was tried, and what came of it."""
        faults: dict[str, Counter[str]] = {}
        operations: dict[str, Counter[str]] = {}
        for cell, outcome in self.outcomes.items():
            came = "right" if outcome.error is None else f"error {outcome.error.exit_code}"
            faults.setdefault(cell.fault, Counter())[came] += 1
            operations.setdefault(cell.operation, Counter())[came] += 1
        kinds = {
            name: len({cell.kind for cell in self.outcomes if cell.operation == name})
            for name in operations
        }
        return {
            "cases": len(self.outcomes),
            "requests": sum(len(item.requests) for item in self.outcomes.values()),
            "struck": sum(item.struck for item in self.outcomes.values()),
            "images read by skopeo": len(
                {item.place for item in (*self.right.values(), *self.outcomes.values())} - {""}
            ),
            "kinds of requests": kinds,
            "by operation": {name: dict(found) for name, found in operations.items()},
            "by fault": {name: dict(found) for name, found in faults.items()},
        }


async def played(directory: Path, step: int) -> tuple[RealMatrix, list[str]]:
    """Play every ``step``th fault of each kind below ``directory``; what is wrong."""
    async with site(directory) as made:
        matrix = RealMatrix(made)
        await matrix.prepare()
        await matrix.play(every(step, matrix.cells))
        return matrix, await matrix.wrong()


def main() -> int:
    """Play, and print the counts as JSON; 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="of so many faults one is played")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="asyncbuild-test-", dir="/dev/shm"))
    started = time.monotonic()
    try:
        matrix, wrong = trio.run(played, directory, options.every)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    seconds = round(time.monotonic() - started, 1)
    report = {"seconds": seconds, **matrix.counts(), "wrong": wrong}
    sys.stdout.write(f"{json.dumps(report, indent=1)}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
