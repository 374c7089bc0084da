"""Progress that is silent unless something fails."""

from __future__ import annotations

from typing import TextIO

from asyncbuild.report.events import BuildFailed, Event, Outcome, RunOutput, StepFinished
from asyncbuild.report.stream import Output
from asyncbuild.report.tails import OutputTails
from asyncbuild.report.view import TAIL_OF_FAILURE
from asyncbuild.report.wording import sentence


class QuietReporter:
    """Writes nothing but the failing step's last lines."""

    def __init__(self, stream: TextIO) -> None:
        self._output = Output(stream)
        self._tails = OutputTails(TAIL_OF_FAILURE)

    def emit(self, event: Event) -> None:
        """Remember what commands write, in case they fail."""
        match event:
            case RunOutput():
                self._tails.add(event)
            case StepFinished() if event.outcome is not Outcome.FAILED:
                self._tails.drop(event.step)
            case BuildFailed(step=step) if step is not None and (found := self._tails.report(step)):
                lines = [": ".join(sentence(event)), *found]
                self._output.write("".join(f"{line}\n" for line in lines))

    def tick(self) -> None:
        """Nothing to draw."""

    def close(self) -> None:
        """Nothing is held back."""
