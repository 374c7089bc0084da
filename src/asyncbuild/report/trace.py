"""``--trace FILE``: when everything ran, and why then, as a file that chrome://tracing and Perfetto open.

The format is Chrome's "Trace Event Format": complete events (``ph: X``) with microseconds. A thread of
that format is a lane here: one for each stage, and as many for transfers, layers and tasks as run at once.
Every span that rests on something has its cause among its arguments: a step and a transfer what they waited
for longest, a task who began it, a wait who ended it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncbuild.errors import StoreError
from asyncbuild.records import dataclass, field, replace
from asyncbuild.report.events import (
    Event,
    ImageResolved,
    LayerPacked,
    LayerUnpacked,
    StageFinished,
    StepFinished,
    TransferFinished,
)

if TYPE_CHECKING:
    from asyncbuild.report.causes import TaskTrace


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time, in seconds since the build began.

    ``lane`` groups spans that never overlap; without one, ``category`` is spread over free lanes.
    ``args`` are shown when the span is chosen; ``cause`` says what it waited for before it could start.
    """

    name: str
    category: str
    start: float
    end: float
    lane: str = ""
    args: tuple[tuple[str, str | int | float], ...] = ()
    cause: str = ""


@dataclass(slots=True)
class TraceRecorder:
    """A reporter that keeps a span for each event that tells how long something took.

    ``start`` is when it all began, by ``clock``; now, if it is not given. ``tasks`` knows the causes.
    """

    clock: Callable[[], float]
    spans: list[Span] = field(default_factory=list)
    start: float | None = None
    tasks: TaskTrace | None = None
    _start: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.clock() if self.start is None else self.start

    @property
    def began(self) -> float:
        """When it all began, by ``clock``."""
        return self._start

    def emit(self, event: Event) -> None:
        """Keep the span of one event, which ends now."""
        span = _span(event, self.clock() - self._start)
        if span is None:
            return
        task = None if self.tasks is None else self.tasks.current
        if self.tasks is not None and task is not None:
            cause = self.tasks.cause(task.number, span.start, span.end)
            span = replace(span, args=(*span.args, ("task", task.number)), cause=cause)
        self.spans.append(span)

    def add(self, span: Span) -> None:
        """Keep a span that no event tells of."""
        self.spans.append(span)

    def tick(self) -> None:
        """Nothing changes by time alone."""

    def close(self) -> None:
        """Nothing is held back."""

    def write(self, path: Path) -> None:
        """Write the trace file; `StoreError` if it cannot be."""
        try:
            tasks = [] if self.tasks is None else self.tasks.spans()
            path.write_bytes(render_trace([*self.spans, *tasks]))
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error


def process_start() -> float:
    """When this process began, by `time.monotonic` (Linux counts in hundredths: proc_pid_stat(5))."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - began)


def _span(event: Event, now: float) -> Span | None:
    match event:
        case StepFinished(step=step, seconds=seconds):
            args = (("outcome", str(event.outcome.value)),)
            return Span(step.text, "step", now - seconds, now, step.stage, args)
        case StageFinished(stage=stage, seconds=seconds):
            return Span(stage, "stage", now - seconds, now)
        case TransferFinished(transfer=transfer, seconds=seconds):
            category = transfer.direction.value
            facts = (
                ("outcome", event.outcome.value),
                ("bytes", event.moved),
                ("registry", transfer.registry),
            )
            return Span(transfer.label, category, now - seconds, now, args=facts)
        case LayerUnpacked(seconds=seconds):
            sizes = (("entries", event.entries), ("bytes", event.size))
            return Span(f"unpack {event.diff_id.short}", "unpack", now - seconds, now, args=sizes)
        case LayerPacked(seconds=seconds):
            sizes = (("bytes", event.size), ("tar bytes", event.unpacked))
            return Span(f"pack {event.step.label}", "pack", now - seconds, now, args=sizes)
        case ImageResolved(seconds=seconds):
            return Span(f"resolve {event.reference}", "resolve", now - seconds, now)
    return None


def render_trace(spans: list[Span]) -> bytes:
    """The bytes of a trace file; equal spans give equal bytes."""
    ordered = sorted(spans, key=lambda span: (span.start, -span.end, span.category, span.name))
    lanes = _Lanes()
    events = [_encoded(span, lanes.number(span)) for span in ordered]
    names = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": name}}
        for name, number in lanes.numbers.items()
    ]
    document = {"displayTimeUnit": "ms", "traceEvents": [*names, *events]}
    return json.dumps(document, separators=(",", ":")).encode()


def _encoded(span: Span, lane: int) -> dict[str, Any]:
    args: dict[str, Any] = dict(span.args)
    if span.cause:
        args["cause"] = span.cause
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.category,
        "ts": round(max(span.start, 0.0) * 1e6),
        "dur": max(round((span.end - max(span.start, 0.0)) * 1e6), 1),
        "pid": 1,
        "tid": lane,
        "args": args,
    }


@dataclass(slots=True)
class _Lanes:
    """Gives each span a lane: its own, or the first of its category that is free."""

    numbers: dict[str, int] = field(default_factory=dict)
    _free_at: dict[str, float] = field(default_factory=dict)

    def number(self, span: Span) -> int:
        name = span.lane or self._free(span)
        self._free_at[name] = max(span.end, self._free_at.get(name, 0.0))
        return self.numbers.setdefault(name, len(self.numbers) + 1)

    def _free(self, span: Span) -> str:
        count = 1
        while self._free_at.get(f"{span.category} {count}", 0.0) > max(span.start, 0.0):
            count += 1
        return f"{span.category} {count}"
