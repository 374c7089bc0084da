"""Which form of progress one gets."""

import io
import os

import pytest

from asyncbuild.errors import UsageError
from asyncbuild.report.choose import ProgressMode, make_reporter
from asyncbuild.report.events import Reporter, Step, StepFinished
from asyncbuild.report.plain import PlainReporter
from asyncbuild.report.quiet import QuietReporter
from asyncbuild.report.rawjson import RawJsonReporter
from asyncbuild.report.tty import TtyReporter

AUTO, PLAIN, TTY = ProgressMode.AUTO, ProgressMode.PLAIN, ProgressMode.TTY


class Console(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(
    ("mode", "terminal", "environ", "kind"),
    [
        (AUTO, True, {}, TtyReporter),
        (AUTO, False, {}, PlainReporter),
        (AUTO, True, {"TERM": "dumb"}, PlainReporter),
        (AUTO, True, {"BUILDKIT_PROGRESS": "plain"}, PlainReporter),
        (AUTO, True, {"BUILDKIT_PROGRESS": "rawjson"}, RawJsonReporter),
        (TTY, True, {"BUILDKIT_PROGRESS": "plain"}, TtyReporter),
        (TTY, False, {}, PlainReporter),
        (PLAIN, True, {}, PlainReporter),
        (ProgressMode.QUIET, True, {}, QuietReporter),
        (ProgressMode.RAWJSON, True, {}, RawJsonReporter),
    ],
)
def test_choice(
    mode: ProgressMode, environ: dict[str, str], kind: type[Reporter], *, terminal: bool
) -> None:
    """The flag wins over the environment, the environment over the terminal."""
    stream = Console() if terminal else io.StringIO()
    assert type(make_reporter(mode, stream, environ, lambda: 0.0)) is kind


@pytest.mark.parametrize(("value", "coloured"), [(None, True), ("", True), ("1", False)])
def test_no_color(value: str | None, *, coloured: bool) -> None:
    """NO_COLOR takes the colours away unless it is empty (no-color.org)."""
    stream = Console()
    environ = {} if value is None else {"NO_COLOR": value}
    reporter = make_reporter(TTY, stream, environ, lambda: 0.0)
    reporter.emit(StepFinished(Step("a", 1, 1, "RUN x"), 0.1))
    reporter.close()
    assert ("\x1b[34m" in stream.getvalue()) == coloured


def test_unknown_modes() -> None:
    """A mode that does not exist is a usage error, from the environment too."""
    with pytest.raises(UsageError, match="'fancy'"):
        ProgressMode.parse("fancy")
    with pytest.raises(UsageError, match="'fancy'"):
        make_reporter(AUTO, io.StringIO(), {"BUILDKIT_PROGRESS": "fancy"}, lambda: 0.0)


def test_on_a_real_terminal() -> None:
    """A pseudo-terminal that does not know its size is taken for 80 by 24."""
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        reporter = make_reporter(AUTO, stream, {}, lambda: 0.0)
        reporter.emit(StepFinished(Step("a", 1, 1, "RUN x"), 0.1))
        reporter.tick()
        reporter.close()
        shown = os.read(controller, 4096)
    os.close(controller)
    assert b" => [a 1/1] RUN x" in shown
