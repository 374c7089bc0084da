"""Progress as lines."""

import io

from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.report.events import RunOutput, Step, StepFinished, Stream
from asyncbuild.report.plain import PlainReporter
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
    for chunk in chunks:
        reporter.emit(RunOutput(STEP, Stream.STDOUT, chunk))
    reporter.emit(StepFinished(STEP, 0.0))
    reporter.close()
    return stream.getvalue()


@given(st.binary())
def test_output_cannot_forge_a_line(data: bytes) -> None:
    """Every line that comes from a command begins with the time and the step, then a bar."""
    lines = written(data).split("\n")
    assert lines[-2:] == ["    0.0s [build 3/7]      done in 0.00s", ""]
    assert all(line.startswith("    0.0s [build 3/7]      |") for line in lines[:-2])


def test_streams_are_joined_apart() -> None:
    """Half a line of stdout and half a line of stderr do not become one line."""
    stream = io.StringIO()
    reporter = PlainReporter(stream, lambda: 0.0)
    reporter.emit(RunOutput(STEP, Stream.STDOUT, b"out"))
    reporter.emit(RunOutput(STEP, Stream.STDERR, b"err\n"))
    reporter.emit(RunOutput(STEP, Stream.STDOUT, b"put\n"))
    assert [line.partition("| ")[2] for line in stream.getvalue().splitlines()] == ["err", "output"]
