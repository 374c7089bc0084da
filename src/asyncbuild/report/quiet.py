"""Progress that is silent unless something fails."""

from __future__ import annotations

from typing import TextIO

from asyncbuild.report.escape import one_line, printable
from asyncbuild.report.events import Event, Outcome, RunOutput, StepFinished
from asyncbuild.report.stream import Output
from asyncbuild.report.tails import OutputTails
from asyncbuild.report.view import TAIL_OF_FAILURE
from asyncbuild.report.wording import outcome


class QuietReporter:
    """Writes nothing but a failing step and its last lines."""

    def __init__(self, stream: TextIO) -> None:
        self._output = Output(stream)
        self._tails = OutputTails(TAIL_OF_FAILURE)

    def emit(self, event: Event) -> None:
        """Remember what commands write, in case they fail."""
        match event:
            case RunOutput():
                self._tails.add(event)
            case StepFinished():
                if event.outcome is Outcome.FAILED:
                    self._tell(event)
                self._tails.drop(event.step)

    def _tell(self, event: StepFinished) -> None:
        step = f"[{printable(event.step.label)}] {one_line(event.step.text)}"
        how = outcome(event.outcome, event.seconds)
        lines = [f"{step}: {how}", *self._tails.report(event.step)]
        self._output.write("".join(f"{line}\n" for line in lines))

    def tick(self) -> None:
        """Nothing to draw."""

    def close(self) -> None:
        """Nothing is held back."""
