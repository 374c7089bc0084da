"""The live view, seen through a small terminal."""

import io
import re
from dataclasses import dataclass, field

from asyncbuild.image.digest import Digest
from asyncbuild.report.events import (
    BuildFinished,
    BuildStarted,
    Direction,
    RunOutput,
    Step,
    StepFinished,
    StepStarted,
    Stream,
    Transfer,
    TransferStarted,
)
from asyncbuild.report.tty import TtyReporter
from support.progress_cases import Case

DIGEST = Digest.of(b"")


@dataclass
class Screen:
    """As much of a terminal as the reporter may use; anything else is an error.

    ``lines`` grows downward; the last ``rows`` of them are visible, the rest has scrolled away.
    """

    columns: int = 80
    rows: int = 24
    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    cursor: bool = True
    colours: set[str] = field(default_factory=set)

    def feed(self, text: str) -> None:
        """Show what was written."""
        for part in re.findall(r"\x1b\[[?]?[0-9;]*[A-Za-z]|.|\n", text):
            if part == "\n":
                self._down()
                self.column = 0
            elif part == "\r":
                self.column = 0
            elif part.startswith("\x1b"):
                self._control(part)
            else:
                self._put(part)

    def _control(self, part: str) -> None:
        if part == "\x1b[J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]
        elif part.endswith("A"):
            self.row -= int(part[2:-1])
            assert self.row >= max(0, len(self.lines) - self.rows), "moved above the screen"
        elif part.endswith("m"):
            self.colours.add(part)
        else:
            assert part in ("\x1b[?25l", "\x1b[?25h"), part
            self.cursor = part.endswith("h")

    def _put(self, letter: str) -> None:
        assert letter.isprintable(), repr(letter)
        if self.column == self.columns:
            self._down()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def text(self) -> str:
        """All lines, those that scrolled away too."""
        return "".join(f"{line.rstrip()}\n" for line in self.lines).rstrip("\n") + "\n"


class Terminal(io.StringIO):
    """A stream that feeds a screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen = screen

    def write(self, text: str) -> int:
        """Show ``text``."""
        self.screen.feed(text)
        assert self.screen.cursor, "a write must leave the cursor shown"
        return len(text)


def reporter_on(screen: Screen, *, colour: bool = False, now: float = 0.0) -> TtyReporter:
    """A reporter whose clock stands still."""
    return TtyReporter(
        Terminal(screen), lambda: now, lambda: (screen.columns, screen.rows), colour=colour
    )


def test_cases(case: Case) -> None:
    """What the terminal shows at the times of the case, and in the end."""
    screen = Screen(columns=90, rows=20)
    shots: list[str] = []

    def look(time: float) -> None:
        shots.append(f"==== {time:.1f}s\n{screen.text()}")

    case.play(
        lambda clock: TtyReporter(
            Terminal(screen), clock, lambda: (screen.columns, screen.rows), colour=False
        ),
        look,
    )
    case.compare("tty.txt", "".join([*shots, f"==== end\n{screen.text()}"]))


def test_colours_only_where_wanted() -> None:
    """With colour off no SGR sequence is written; with it on each is reset."""
    for colour in (False, True):
        screen = Screen()
        reporter = reporter_on(screen, colour=colour)
        reporter.emit(StepFinished(Step("a", 1, 1, "RUN x"), 1.0))
        reporter.close()
        assert ("\x1b[0m" in screen.colours) == colour
        assert bool(screen.colours) == colour


def test_more_work_than_rows() -> None:
    """The live part never gets taller than the screen; what is hidden is counted."""
    screen = Screen(rows=8)
    reporter = reporter_on(screen)
    for number in range(30):
        reporter.emit(StepStarted(Step(f"stage-{number}", 1, 1, "RUN x")))
        transfer = Transfer(Direction.PULL, "layer", "r", DIGEST, number)
        reporter.emit(TransferStarted(transfer, 10))
        reporter.tick()
    assert len(screen.lines) == 8
    assert screen.lines[-2].strip() == "... and 55 more"
    reporter.emit(BuildFinished(DIGEST))
    reporter.close()
    assert screen.text().startswith(f" => done {DIGEST}"[:80])
    assert "[+]" not in screen.text()


def test_a_tiny_terminal() -> None:
    """A terminal of two rows and five columns is no reason to fail."""
    screen = Screen(columns=12, rows=2)
    reporter = reporter_on(screen)
    reporter.emit(BuildStarted(("a",), 1, 1))
    reporter.emit(StepStarted(Step("a", 1, 1, "RUN something long")))
    reporter.tick()
    reporter.tick()
    reporter.close()
    assert screen.text() == "\n"


def test_resizing() -> None:
    """A terminal that became narrower has broken the lines anew; all their rows are erased."""
    screen = Screen(columns=80)
    reporter = reporter_on(screen)
    step = Step("a", 1, 1, "RUN x")
    reporter.emit(StepStarted(step))
    reporter.tick()
    drawn = screen.lines[:2]
    screen.columns = 40
    screen.lines = [line[at : at + 40] for line in drawn for at in (0, 40)] + [""]
    screen.row = 4
    reporter.tick()
    assert [line[:8] for line in screen.lines] == ["[+] buil", " => [a 1", ""]
    screen.columns = 100
    reporter.tick()
    assert [line[:8] for line in screen.lines] == ["[+] buil", " => [a 1", ""]


def test_wide_letters_are_cut_by_columns() -> None:
    """Letters that take two columns do not make a line wrap."""
    screen = Screen(columns=41)
    reporter = reporter_on(screen)
    reporter.emit(StepStarted(Step("a", 1, 1, "RUN echo " + "漢字" * 40)))
    reporter.tick()
    line = screen.lines[1]
    assert len(line) + sum(letter in "漢字" for letter in line) <= 40


def test_after_close_nothing_is_drawn() -> None:
    """Closing twice, or a late tick, changes nothing."""
    screen = Screen()
    reporter = reporter_on(screen)
    reporter.emit(StepStarted(Step("a", 1, 1, "RUN x")))
    reporter.tick()
    reporter.close()
    reporter.tick()
    reporter.close()
    assert screen.text() == "\n"


def test_output_of_a_running_step() -> None:
    """The last lines of a running command stand below it, a progress bar's last state too."""
    screen = Screen()
    reporter = reporter_on(screen)
    step = Step("a", 1, 1, "RUN x")
    reporter.emit(StepStarted(step))
    reporter.emit(RunOutput(step, Stream.STDOUT, b"".join(b"line %d\n" % n for n in range(9))))
    reporter.emit(RunOutput(step, Stream.STDERR, b"10%\r20%"))
    reporter.tick()
    shown = [line.strip() for line in screen.lines[2:-1]]
    assert shown == [*(f"| line {number}" for number in range(4, 9)), "| 20%"]
