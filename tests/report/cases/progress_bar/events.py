"""A command that draws a progress bar with carriage returns, then ends without a newline."""

from asyncbuild.report.events import (
    BuildStarted,
    Event,
    RunOutput,
    Step,
    StepFinished,
    StepStarted,
    Stream,
)

GET = Step("fetch", 1, 1, "RUN curl -O https://files.example/big")

EVENTS: list[tuple[float, Event]] = [
    (0.0, BuildStarted(("app:1",), 1, 1)),
    (0.1, StepStarted(GET)),
    (0.2, RunOutput(GET, Stream.STDERR, b"  0%\r 10%")),
    (0.3, RunOutput(GET, Stream.STDERR, b"\r 50%\r")),
    (0.4, RunOutput(GET, Stream.STDERR, b" 99%")),
    (0.5, RunOutput(GET, Stream.STDERR, b"\r100%\r\nsaved\tbig\r\n")),
    (0.6, RunOutput(GET, Stream.STDOUT, "naïve caf".encode() + b"\xc3")),
    (0.7, RunOutput(GET, Stream.STDOUT, b"\xa9")),
    (0.8, StepFinished(GET, 0.7)),
]
SNAPSHOTS = (0.4,)
