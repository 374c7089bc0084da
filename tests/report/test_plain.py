"""Progress as lines."""

import io

from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.report.events import Outcome, RunOutput, Step, StepFinished, StepStarted, Stream
from asyncbuild.report.plain import REPEATED, PlainReporter
from support.progress_cases import Case

STEP = Step("build", 3, 7, "RUN make")


def test_cases(case: Case) -> None:
    """What each sequence of events looks like in a log."""
    stream = io.StringIO()
    case.play(lambda clock: PlainReporter(stream, clock))
    case.compare("plain.txt", stream.getvalue())
    assert "\x1b" not in stream.getvalue()


def written(*chunks: bytes) -> str:
    """What is written of one command's output."""
    stream = io.StringIO()
    reporter = PlainReporter(stream, lambda: 0.0)
    reporter.emit(StepStarted(STEP))
    for chunk in chunks:
        reporter.emit(RunOutput(STEP, Stream.STDOUT, chunk))
    reporter.emit(StepFinished(STEP, 0.0))
    reporter.close()
    return stream.getvalue()


@given(st.binary(min_size=1))
def test_output_cannot_forge_a_line(data: bytes) -> None:
    """Every line that comes from a command begins with the time and the step, then a bar."""
    lines = written(data).split("\n")
    assert lines[-2:] == ["    0.0s [build 3/7]      done in 0.00s", ""]
    assert lines[0] == "    0.0s [build 3/7]      RUN make"
    assert all(line.startswith("    0.0s [build 3/7]      |") for line in lines[1:-2])


def test_streams_are_joined_apart() -> None:
    """Half a line of stdout and half a line of stderr do not become one line."""
    stream = io.StringIO()
    reporter = PlainReporter(stream, lambda: 0.0)
    reporter.emit(RunOutput(STEP, Stream.STDOUT, b"out"))
    reporter.emit(RunOutput(STEP, Stream.STDERR, b"err\n"))
    reporter.emit(RunOutput(STEP, Stream.STDOUT, b"put\n"))
    assert [line.partition("| ")[2] for line in stream.getvalue().splitlines()] == ["err", "output"]


def test_a_short_step_takes_one_line() -> None:
    """Beginning and end share a line, unless something came between or a tick wrote the beginning."""
    stream = io.StringIO()
    reporter = PlainReporter(stream, lambda: 0.0)
    other = Step("other", 1, 1, "RUN x")
    reporter.emit(StepStarted(STEP))
    reporter.emit(StepFinished(STEP, 0.01))
    reporter.emit(StepStarted(STEP))
    reporter.emit(StepStarted(other))
    reporter.emit(StepFinished(STEP, 0.01))
    reporter.tick()
    reporter.emit(StepFinished(other, 0.01))
    reporter.emit(StepStarted(STEP))
    reporter.close()
    assert [line[9:] for line in stream.getvalue().splitlines()] == [
        "[build 3/7]      RUN make (done in 0.01s)",
        "[build 3/7]      RUN make",
        "[other 1/1]      RUN x",
        "[build 3/7]      done in 0.01s",
        "[other 1/1]      done in 0.01s",
        "[build 3/7]      RUN make",
    ]


def test_a_failing_step_among_others_shows_its_last_lines_again() -> None:
    """They may stand far above; alone they are the last lines anyway."""
    stream = io.StringIO()
    reporter = PlainReporter(stream, lambda: 0.0)
    other = Step("other", 1, 1, "RUN x")
    for number in range(REPEATED + 5):
        reporter.emit(RunOutput(STEP, Stream.STDOUT, b"mine %d\n" % number))
        reporter.emit(RunOutput(other, Stream.STDOUT, b"other\n"))
    reporter.emit(StepFinished(STEP, 0.0, Outcome.FAILED))
    lines = [line.partition("build 3/7]      ")[2] for line in stream.getvalue().splitlines()]
    assert lines[-REPEATED - 2] == f"the last {REPEATED} lines of its output, once more:"
    assert lines[-REPEATED - 1 : -1] == [f"| mine {number}" for number in range(5, REPEATED + 5)]
    assert lines[-1].startswith("RUN make (FAILED")


def test_a_failing_step_alone_shows_nothing_again() -> None:
    """Its last lines are there to be read."""
    stream = io.StringIO()
    reporter = PlainReporter(stream, lambda: 0.0)
    reporter.emit(StepStarted(STEP))
    reporter.emit(RunOutput(STEP, Stream.STDOUT, b"one\ntwo"))
    reporter.emit(StepFinished(STEP, 0.0, Outcome.FAILED))
    assert "once more" not in stream.getvalue()
