"""The critical path of a build, read from the file that ``asyncbuild build --trace FILE`` wrote.

From the end of the build's main task backwards: what a task did, then who made it go on, and what that one did
before. Where something outside of the event loop did (a socket, a thread, the clock), the wait itself is on the
path. So the parts follow each other without a gap and add up to the wall time; who is not on the path could
have been slower for nothing.
"""

from __future__ import annotations

import argparse
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

RUNS = "runs"
TURN = "waits for its turn"


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait of a task; see `asyncbuild.report.causes.Wait`. Times are in seconds since the start."""

    start: float
    due: float
    end: float
    by: int
    where: str


@dataclass(slots=True)
class Task:
    """A task: its name, the number of the task that began it (0: none), and its waits in order."""

    name: str
    by: int
    start: float
    end: float
    waits: list[Wait] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of the path: ``what`` ``task`` did, or waited for, from ``start`` to ``end``."""

    start: float
    end: float
    task: str
    what: str

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def read_tasks(events: Sequence[dict[str, Any]]) -> dict[int, Task]:
    """The tasks of a trace by their numbers."""
    tasks = {
        event["args"]["task"]: Task(event["name"], event["args"]["by"], *_times(event))
        for event in events
        if event.get("cat") == "task"
    }
    for event in events:
        if event.get("cat") == "wait":
            args = event["args"]
            start, end = _times(event)
            wait = Wait(start, args["due"] / 1e6, end, args["by"], args["where"])
            tasks[args["task"]].waits.append(wait)
    for task in tasks.values():
        task.waits.sort(key=lambda wait: wait.end)
    return tasks


def critical_path(tasks: dict[int, Task]) -> list[Part]:
    """The parts in order, from the beginning of the task that nobody began to its end."""
    number = min(number for number, task in tasks.items() if not task.by)
    at = tasks[number].end
    left = {number: len(task.waits) for number, task in tasks.items()}
    parts: list[Part] = []
    while True:
        task = tasks[number]
        known = bisect_right(task.waits, at, key=lambda wait: wait.end)
        left[number] = min(left[number], known) - 1
        if left[number] < 0:
            start = min(task.start, at)
            parts.append(Part(start, at, task.name, RUNS))
            if not task.by:
                return parts[::-1]
            number, at = task.by, start
            continue
        wait = task.waits[left[number]]
        parts.append(Part(wait.end, at, task.name, RUNS))
        if wait.by:
            parts.append(Part(min(wait.due, wait.end), wait.end, task.name, TURN))
            number, at = wait.by, min(wait.due, wait.end)
        else:
            parts.append(Part(wait.start, wait.end, task.name, wait.where))
            at = wait.start


def joined(parts: Sequence[Part]) -> Iterator[Part]:
    """Neighbours of one task as one part, called after what took longest in it."""
    group: list[Part] = []
    for part in [*parts, None]:
        if group and (part is None or part.task != group[0].task):
            longest = max(group, key=lambda item: item.seconds)
            yield replace(longest, start=group[0].start, end=group[-1].end)
            group = []
        if part is not None:
            group.append(part)


def render(parts: Sequence[Part], least: float) -> str:
    """A table; parts below ``least`` of the whole are one line at its end."""
    wall = parts[-1].end
    lines = [f"{wall:.3f} s", "      at  seconds   part  task: what it waited for"]
    small = 0.0
    for part in parts:
        if part.seconds < least * wall:
            small += part.seconds
            continue
        share = part.seconds / wall
        lines.append(
            f"{part.start:8.3f} {part.seconds:8.3f} {share:6.1%}  {part.task}: {part.what}"
        )
    lines.append(f"{'':8} {small:8.3f} {small / wall:6.1%}  parts below {least:.1%}")
    return "\n".join(lines)


def read_path(path: Path) -> list[Part]:
    """The critical path of a trace file, with what came before the event loop."""
    events = json.loads(path.read_bytes())["traceEvents"]
    parts = critical_path(read_tasks(events))
    begun = [_times(event)[1] for event in events if event.get("cat") == "process"]
    if begun:
        parts = [
            Part(0.0, begun[0], "process", "starts"),
            Part(begun[0], parts[0].start, "process", "reads the request"),
            *parts,
        ]
    return list(joined(parts))


def _times(event: dict[str, Any]) -> tuple[float, float]:
    return event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6


def main() -> None:
    """Print the critical path."""
    parser = argparse.ArgumentParser(prog="perf/critical", description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument(
        "--least", type=float, default=0.01, help="of the whole, to be shown (0.01)"
    )
    options = parser.parse_args()
    print(render(read_path(options.trace), options.least))


if __name__ == "__main__":
    main()
