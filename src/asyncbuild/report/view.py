"""What a terminal shows while a build runs, as plain lines: no control sequence is made here.

A `View` takes events; `take_finished` gives the lines that stay (they scroll up), `frame` those that are
drawn again and again below them.
"""

from __future__ import annotations

from enum import Enum

from asyncbuild.records import dataclass, field
from asyncbuild.report.escape import cells, clip, one_line, printable
from asyncbuild.report.events import (
    BuildFailed,
    BuildFinished,
    BuildStarted,
    Direction,
    Event,
    ImagePushed,
    ImageResolved,
    Outcome,
    OutputWritten,
    RunOutput,
    Step,
    StepFinished,
    StepStarted,
    Transfer,
    TransferFinished,
    TransferProgress,
    TransferStarted,
    WarningRaised,
)
from asyncbuild.report.tails import OutputTails
from asyncbuild.report.wording import duration, plural, sentence, size

TAIL_OF_FAILURE = 60
_TAIL_LIVE = 6
_TRANSFERS_LIVE = 8


class Tone(Enum):
    """What a line is about; a terminal shows it by colour."""

    NORMAL = "normal"
    GOOD = "good"
    BAD = "bad"
    WARNING = "warning"
    FAINT = "faint"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a terminal; ``right`` is set against the right edge."""

    text: str
    right: str = ""
    tone: Tone = Tone.NORMAL

    def fit(self, width: int) -> str:
        """The line in at most ``width`` columns; what does not fit is cut on the left part."""
        room = width - cells(self.right) - 1 if self.right else width
        text = clip(self.text.expandtabs(8), max(room, 0))
        if not self.right:
            return text
        return clip(text + " " * (width - cells(text) - cells(self.right)) + self.right, width)


@dataclass(slots=True)
class _Moving:
    started: float
    total: int | None
    done: int = 0


@dataclass(slots=True)
class View:
    """The state of the display; ``started`` is the clock's time when the build began."""

    started: float
    steps_total: int = 0
    steps_done: int = 0
    moved: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(Direction, 0))
    _running: dict[Step, float] = field(default_factory=dict)
    _moving: dict[Transfer, _Moving] = field(default_factory=dict)
    _finished: list[Line] = field(default_factory=list)
    _tails: OutputTails = field(default_factory=lambda: OutputTails(TAIL_OF_FAILURE))
    _over: bool = False

    def take(self, event: Event, now: float) -> None:
        """Change the display as an event asks."""
        match event:
            case BuildStarted():
                self.steps_total = event.steps
            case StepStarted():
                self._running[event.step] = now
            case RunOutput():
                self._tails.add(event)
            case StepFinished():
                self._finish_step(event)
            case TransferStarted():
                self._moving[event.transfer] = _Moving(now, event.total)
            case TransferProgress():
                moving = self._moving.setdefault(event.transfer, _Moving(now, None))
                moving.done = event.done
            case TransferFinished():
                self._moving.pop(event.transfer, None)
                self.moved[event.transfer.direction] += event.moved
            case ImageResolved():
                text = f" => resolve {printable(str(event.reference))}"
                self._finished.append(Line(text, duration(event.seconds), Tone.GOOD))
            case ImagePushed() | OutputWritten():
                self._keep(" ".join(sentence(event)), Tone.GOOD)
            case WarningRaised():
                self._keep(": ".join(sentence(event)), Tone.WARNING)
            case BuildFinished():
                self._over = True
                self._keep(" ".join(sentence(event)), Tone.GOOD)
            case BuildFailed():
                self._over = True
                self._keep(": ".join(sentence(event)), Tone.BAD)

    def take_finished(self) -> list[Line]:
        """The lines that are new above the live part; each is given once."""
        lines, self._finished = self._finished, []
        return lines

    def frame(self, now: float, height: int) -> list[Line]:
        """The live part in at most ``height`` lines; nothing once the build is over."""
        if self._over or height < 1:
            return []
        steps = list(self._running.items())
        transfers = list(self._moving.items())[:_TRANSFERS_LIVE]
        lines = [self._header(now)]
        room = height - 1
        shown = steps[: max(room - 1, 0)] if len(steps) > room else steps
        room -= len(shown)
        transfers = transfers[: max(room - 1, 0)] if len(transfers) > room else transfers
        room -= len(transfers)
        share = min(_TAIL_LIVE, room // len(shown)) if shown else 0
        for step, since in shown:
            lines.append(_step_line(step, duration(now - since), Tone.NORMAL))
            tail = self._tails.lines(step)[-share:] if share else []
            lines += [Line(f"    | {text}", tone=Tone.FAINT) for text in tail]
        lines += [_transfer_line(transfer, moving, now) for transfer, moving in transfers]
        hidden = len(steps) + len(self._moving) - len(shown) - len(transfers)
        if hidden and len(lines) < height:
            lines.append(Line(f"    ... and {hidden} more", tone=Tone.FAINT))
        return lines

    def _header(self, now: float) -> Line:
        steps = f"{self.steps_done}/{plural(self.steps_total, 'step')}"
        here = dict(self.moved)
        for transfer, moving in self._moving.items():
            here[transfer.direction] += moving.done
        moved = f"pulled {size(here[Direction.PULL])}, pushed {size(here[Direction.PUSH])}"
        return Line(f"[+] building: {steps}, {moved}", duration(now - self.started))

    def _finish_step(self, event: StepFinished) -> None:
        self._running.pop(event.step, None)
        self.steps_done += 1
        match event.outcome:
            case Outcome.FAILED:
                line = _step_line(event.step, duration(event.seconds), Tone.BAD, "FAILED ")
            case Outcome.EXECUTED:
                line = _step_line(event.step, duration(event.seconds), Tone.GOOD)
            case Outcome.CACHED | Outcome.SKIPPED:
                line = _step_line(event.step, str(event.outcome.value), Tone.GOOD)
        self._finished.append(line)
        if event.outcome is Outcome.FAILED:
            self._finished += [Line(f"    {text}") for text in self._tails.report(event.step)]
        self._tails.drop(event.step)

    def _keep(self, text: str, tone: Tone) -> None:
        self._finished.append(Line(f" => {text}", tone=tone))


def _step_line(step: Step, right: str, tone: Tone, word: str = "") -> Line:
    return Line(f" => {word}[{printable(step.label)}] {one_line(step.text)}", right, tone)


def _transfer_line(transfer: Transfer, moving: _Moving, now: float) -> Line:
    whole = f" of {size(moving.total)}" if moving.total is not None else ""
    text = f" => {printable(transfer.label)}: {size(moving.done)}{whole}"
    return Line(text, duration(now - moving.started))
