"""The last lines that each running step wrote: shown live, and in full when the step fails."""

from __future__ import annotations

from collections import deque

from asyncbuild.records import dataclass, field
from asyncbuild.report.events import RunOutput, Step, Stream
from asyncbuild.report.lines import LineJoiner


@dataclass(slots=True)
class _Tail:
    lines: deque[str]
    joiners: dict[Stream, LineJoiner] = field(default_factory=dict)


class OutputTails:
    """Keeps at most ``limit`` lines for each step."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tails: dict[Step, _Tail] = {}

    def add(self, event: RunOutput) -> None:
        """Take in what a command wrote."""
        tail = self._tails.setdefault(event.step, _Tail(deque(maxlen=self._limit)))
        joiner = tail.joiners.setdefault(event.stream, LineJoiner())
        tail.lines.extend(joiner.feed(event.data))

    def lines(self, step: Step) -> list[str]:
        """The last lines of a step, with those that no newline has ended yet."""
        tail = self._tails.get(step)
        if tail is None:
            return []
        pending = [joiner.pending for joiner in tail.joiners.values()]
        return [*tail.lines, *(line for line in pending if line)][-self._limit :]

    def drop(self, step: Step) -> None:
        """Forget a step that is over."""
        self._tails.pop(step, None)

    def report(self, step: Step) -> list[str]:
        """What is printed of a failed step: its last lines behind bars, or nothing."""
        found = self.lines(step)
        if not found:
            return []
        noun = "line" if len(found) == 1 else "lines"
        return [f"last {len(found)} {noun} of its output:", *(f"| {line}" for line in found)]
