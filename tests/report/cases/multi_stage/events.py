"""Two stages that run at once, pulls, pushes, a mount, a warning, the end."""

from asyncbuild.errors import SourceLocation
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.reference import Reference
from asyncbuild.report.events import (
    BuildFinished,
    BuildStarted,
    Direction,
    Event,
    ImagePushed,
    ImageResolved,
    LayerPacked,
    LayerUnpacked,
    OutputWritten,
    RunOutput,
    StageFinished,
    StageStarted,
    Statistics,
    Step,
    StepFinished,
    StepStarted,
    Stream,
    Transfer,
    TransferFinished,
    TransferOutcome,
    TransferProgress,
    TransferStarted,
    WarningRaised,
)

HOST = "localhost:5000"
BASE = Digest("sha256", "ab" * 32)
NEW = Digest("sha256", "cd" * 32)
IMAGE = Digest("sha256", "ef" * 32)
PULL = Transfer(Direction.PULL, "layer", HOST, BASE)
PUSH = Transfer(Direction.PUSH, "layer", HOST, None, 1)
MOUNT = Transfer(Direction.PUSH, "layer", HOST, BASE)
MAKE = Step("build", 2, 3, "RUN make\\\n    all")
COPY = Step("build", 1, 3, "COPY . /src")
PIP = Step("stage-1", 1, 2, "RUN pip install flask")

EVENTS: list[tuple[float, Event]] = [
    (0.0, BuildStarted((f"{HOST}/app:1",), 2, 5)),
    (0.02, ImageResolved(Reference.parse(f"{HOST}/debian:12"), BASE, 0.018)),
    (0.03, StageStarted("build", f"{HOST}/debian:12", 3)),
    (0.03, StageStarted("stage-1", f"{HOST}/debian:12", 2)),
    (0.04, TransferStarted(PULL, 48_000_000)),
    (0.05, StepStarted(COPY)),
    (0.06, StepFinished(COPY, 0.01)),
    (0.07, WarningRaised("MAINTAINER is deprecated", SourceLocation("Dockerfile", 3, 3))),
    (0.5, TransferProgress(PULL, 24_000_000)),
    (5.2, TransferProgress(PULL, 40_000_000)),
    (6.0, TransferFinished(PULL, 48_000_000, 5.96)),
    (6.1, LayerUnpacked(DiffId("sha256", "01" * 32), 3200, 120_500_000, 0.1)),
    (6.1, TransferStarted(MOUNT, 48_000_000)),
    (6.2, TransferFinished(MOUNT, 0, 0.1, TransferOutcome.MOUNTED)),
    (6.3, StepStarted(MAKE)),
    (6.3, StepStarted(PIP)),
    (6.4, RunOutput(MAKE, Stream.STDOUT, b"cc -c main.c\ncc -c ot")),
    (6.5, RunOutput(PIP, Stream.STDERR, "Collecting flask ✔\n".encode())),
    (6.6, RunOutput(MAKE, Stream.STDOUT, b"her.c\nlinking")),
    (8.0, RunOutput(PIP, Stream.STDOUT, b"done\n")),
    (9.5, StepFinished(MAKE, 3.2)),
    (9.6, StageFinished("build", 9.57)),
    (9.7, StepFinished(PIP, 3.4)),
    (9.8, TransferStarted(PUSH, None)),
    (9.9, LayerPacked(PIP, NEW, DiffId("sha256", "02" * 32), 8_400_000, 2_100_000, 0.2)),
    (10.4, TransferFinished(PUSH, 2_100_000, 0.6)),
    (10.5, StageFinished("stage-1", 10.47)),
    (10.6, ImagePushed(Reference.parse(f"{HOST}/app:1"), IMAGE)),
    (10.6, OutputWritten("oci", "out.tar", IMAGE)),
    (10.7, BuildFinished(IMAGE, Statistics(10.7, 48_001_200, 2_101_900, 11, 1, 1, 1, 0, 3, 0))),
]
SNAPSHOTS = (0.5, 8.0)
