"""Nothing had to be executed: cached steps, layers that are there already."""

from asyncbuild.image.digest import Digest
from asyncbuild.report.events import (
    BuildFinished,
    BuildStarted,
    Direction,
    Event,
    Outcome,
    StageFinished,
    StageStarted,
    Statistics,
    Step,
    StepFinished,
    Transfer,
    TransferFinished,
    TransferOutcome,
    TransferStarted,
)

IMAGE = Digest("sha256", "0a" * 32)
HERE = Transfer(Direction.PULL, "config", "docker.io", IMAGE)
THERE = Transfer(Direction.PUSH, "layer", "docker.io", IMAGE)

EVENTS: list[tuple[float, Event]] = [
    (0.0, BuildStarted((), 1, 2)),
    (0.0, StageStarted("stage-0", "debian:12", 2)),
    (0.1, StepFinished(Step("stage-0", 1, 2, "RUN apt-get update"), 0.0, Outcome.CACHED)),
    (0.1, StepFinished(Step("stage-0", 2, 2, "ENV A=b"), 0.0, Outcome.SKIPPED)),
    (0.1, StageFinished("stage-0", 0.1)),
    (0.1, TransferStarted(HERE, 1234)),
    (0.1, TransferFinished(HERE, 0, 0.0, TransferOutcome.EXISTS)),
    (0.1, TransferStarted(THERE, 1_234_567)),
    (0.2, TransferFinished(THERE, 0, 0.02, TransferOutcome.EXISTS)),
    (0.2, BuildFinished(IMAGE, Statistics(seconds=0.2, requests=3, layers_existing=1))),
]
SNAPSHOTS = (0.0,)
