"""Progress as lines, for logs: what happened, when, and where, one event a line.

::

       0.0s build            localhost:5000/app:1: 2 stages, 7 steps
       0.3s [build 1/4]      ENV A=b (done in 0.00s)
       0.4s [build 2/4]      RUN make
       0.5s [build 2/4]      | cc -c main.c
       2.5s [build 2/4]      done in 2.1s

The first column is the time since the build began. A command's lines stand behind a bar, so that no
output can be taken for a line of ours. A step that is over before anything else happens takes one line:
the line of its beginning is held back until the next event or `tick`. A transfer gets a line when it is
over, and one every `PROGRESS_EVERY` seconds while it lasts. The last lines of a step that fails are
written again if others stand between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TextIO

from asyncbuild.report.escape import one_line, printable
from asyncbuild.report.events import (
    BuildFailed,
    BuildFinished,
    Event,
    Outcome,
    RunOutput,
    Step,
    StepFinished,
    StepStarted,
    Stream,
    Transfer,
    TransferFinished,
    TransferProgress,
    TransferStarted,
)
from asyncbuild.report.lines import LineJoiner
from asyncbuild.report.stream import Output
from asyncbuild.report.wording import outcome, sentence, size, transfer_words

PROGRESS_EVERY = 5.0
REPEATED = 20
"""At most so many lines of a failing step are written again."""
_LABEL = 16


class PlainReporter:
    """Writes lines to ``stream``; ``clock`` gives seconds and may start anywhere."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._output = Output(stream)
        self._clock = clock
        self._start = clock()
        self._joiners: dict[tuple[Step, Stream], LineJoiner] = {}
        self._totals: dict[Transfer, tuple[int | None, float]] = {}
        self._held: tuple[Step, str] | None = None  # a step that has just begun, and its line
        self._begun: set[Step] = set()
        self._count = 0  # lines written so far
        self._last: dict[Step, deque[tuple[int, str]]] = {}  # each with its number

    def emit(self, event: Event) -> None:
        """Write what there is to say of one event."""
        if isinstance(event, StepFinished):
            self._finish(event)
            return
        self._release()
        match event:
            case StepStarted():
                line = f"{self._front(_step_label(event.step))}{one_line(event.step.text)}"
                self._held = event.step, line
                self._begun.add(event.step)
            case RunOutput():
                joiner = self._joiners.setdefault((event.step, event.stream), LineJoiner())
                self._run_lines(event.step, joiner.feed(event.data))
            case TransferStarted():
                self._totals[event.transfer] = event.total, self._clock()
            case TransferProgress():
                self._progress(event)
            case _:
                if isinstance(event, TransferFinished):
                    self._totals.pop(event.transfer, None)
                if isinstance(event, BuildFinished | BuildFailed):
                    self._flush_all()
                self._line(*sentence(event))

    def tick(self) -> None:
        """Write the line that was held back."""
        self._release()

    def close(self) -> None:
        """Write the lines that were held back and those that no newline ended."""
        self._release()
        self._flush_all()

    def _release(self, ending: str = "") -> None:
        if self._held is not None:
            self._write(f"{self._held[1]}{ending}\n")
            self._held = None

    def _finish(self, event: StepFinished) -> None:
        """The end of a step: at the line of its beginning if that is still held back."""
        step, how = event.step, outcome(event.outcome, event.seconds)
        if self._held is not None and self._held[0] == step:
            self._release(f" ({how})")
            return
        self._release()
        self._flush(step)
        last = self._last.pop(step, None)
        if event.outcome is Outcome.FAILED and last and last[0][0] + len(last) - 1 != self._count:
            self._step(step, f"the last {len(last)} lines of its output, once more:")
            front = self._front(_step_label(step))
            self._write("".join(f"{front}| {line}".rstrip() + "\n" for _, line in last))
        self._step(step, how if step in self._begun else f"{one_line(step.text)} ({how})")

    def _flush_all(self) -> None:
        for step in {step: None for step, _ in self._joiners}:
            self._flush(step)

    def _line(self, label: str, text: str) -> None:
        self._write(f"{self._front(label)}{text}\n")

    def _step(self, step: Step, text: str) -> None:
        self._line(_step_label(step), text)

    def _run_lines(self, step: Step, lines: list[str]) -> None:
        """Write a command's lines at once: a busy compiler makes thousands in a second."""
        front = self._front(_step_label(step))
        last = self._last.setdefault(step, deque(maxlen=REPEATED))
        last.extend(enumerate(lines, self._count + 1))
        self._write("".join(f"{front}| {line}".rstrip() + "\n" for line in lines))

    def _write(self, text: str) -> None:
        self._count += text.count("\n")
        self._output.write(text)

    def _front(self, label: str) -> str:
        time = f"{self._clock() - self._start:.1f}s"
        return f"{time:>8} {label:<{_LABEL}} "

    def _flush(self, step: Step) -> None:
        for stream in Stream:
            joiner = self._joiners.pop((step, stream), None)
            if joiner is not None:
                self._run_lines(step, joiner.finish())

    def _progress(self, event: TransferProgress) -> None:
        total, last = self._totals.get(event.transfer, (None, self._start))
        now = self._clock()
        if now - last < PROGRESS_EVERY:
            return
        self._totals[event.transfer] = total, now
        whole = f" of {size(total)}" if total else ""
        label, blob = transfer_words(event.transfer)
        self._line(label, f"{blob}: {size(event.done)}{whole} so far")


def _step_label(step: Step) -> str:
    return f"[{printable(step.label)}]"
