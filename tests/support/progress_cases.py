"""Event sequences from ``tests/report/cases``, played to a reporter with a clock that they drive.

Each case is a directory: ``events.py`` has EVENTS (seconds and event) and SNAPSHOTS (seconds at which the
terminal is looked at); what each form of progress shows stands beside it. ``UPDATE_GOLDEN=1`` rewrites it.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from asyncbuild.report.events import Event, Reporter


@dataclass(frozen=True, slots=True)
class Case:
    """One directory of cases."""

    directory: Path
    events: tuple[tuple[float, Event], ...]
    snapshots: tuple[float, ...]

    @classmethod
    def load(cls, directory: Path) -> Case:
        """Read ``events.py``."""
        names = runpy.run_path(str(directory / "events.py"))
        return cls(directory, tuple(names["EVENTS"]), tuple(names["SNAPSHOTS"]))

    def play(
        self,
        make: Callable[[Callable[[], float]], Reporter],
        look: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Tell all events to the reporter that ``make`` gives, with a tick after those of one time.

        ``look`` is called after the last event of each time in SNAPSHOTS.
        """
        now = 0.0

        def clock() -> float:
            return now

        reporter = make(clock)
        for (time, event), (next_time, _) in pairwise([*self.events, (float("inf"), None)]):
            now = time
            assert event is not None
            reporter.emit(event)
            if next_time != time:
                reporter.tick()
            if time in self.snapshots and next_time != time:
                look(time)
        reporter.close()

    def compare(self, name: str, text: str) -> None:
        """Compare with the golden file of that name."""
        path = self.directory / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        assert text == path.read_text()
