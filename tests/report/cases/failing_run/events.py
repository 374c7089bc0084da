"""A RUN that fails after more lines than a screen holds; another stage is still running."""

from asyncbuild.report.events import (
    BuildFailed,
    BuildStarted,
    Event,
    Outcome,
    RunOutput,
    Step,
    StepFinished,
    StepStarted,
    Stream,
)

TEST = Step("test", 4, 4, "RUN pytest")
OTHER = Step("docs", 1, 1, "RUN sphinx-build")

EVENTS: list[tuple[float, Event]] = [
    (0.0, BuildStarted(("app:1",), 2, 5)),
    (0.1, StepStarted(TEST)),
    (0.1, StepStarted(OTHER)),
    (1.0, RunOutput(TEST, Stream.STDOUT, b"".join(b"test %d passed\n" % n for n in range(70)))),
    (2.0, RunOutput(OTHER, Stream.STDOUT, b"reading sources\n")),
    (62.0, RunOutput(TEST, Stream.STDERR, b"E   assert 1 == 2\n1 failed")),
    (62.1, StepFinished(TEST, 62.0, Outcome.FAILED)),
    (62.2, BuildFailed("RUN pytest: exit code 1", TEST)),
]
SNAPSHOTS = (2.0,)
