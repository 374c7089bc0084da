"""Ctrl-C while a command is in the middle of a line and a layer on its way."""

from asyncbuild.image.digest import Digest
from asyncbuild.report.events import (
    BuildFailed,
    BuildStarted,
    Direction,
    Event,
    RunOutput,
    Step,
    StepStarted,
    Stream,
    Transfer,
    TransferProgress,
    TransferStarted,
)

RUN = Step("stage-0", 1, 1, "RUN sleep 1000")
PULL = Transfer(Direction.PULL, "layer", "r.example", Digest("sha256", "0a" * 32))

EVENTS: list[tuple[float, Event]] = [
    (0.0, BuildStarted(("app:1",), 1, 1)),
    (0.1, TransferStarted(PULL, 5_000_000_000)),
    (0.2, StepStarted(RUN)),
    (0.3, RunOutput(RUN, Stream.STDERR, b"waiting")),
    (10.0, TransferProgress(PULL, 1_000_000_000)),
    (12.0, TransferProgress(PULL, 1_200_000_000)),
    (3700.0, TransferProgress(PULL, 4_900_000_000)),
    (3701.0, BuildFailed("interrupted", cancelled=True)),
]
SNAPSHOTS = (12.0, 3700.0)
