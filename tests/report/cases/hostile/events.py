"""Texts from outside that would forge lines, move the cursor, or hide themselves."""

from asyncbuild.errors import SourceLocation
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from asyncbuild.report.events import (
    BuildFailed,
    BuildStarted,
    Direction,
    Event,
    ImageResolved,
    OutputWritten,
    RunOutput,
    StageStarted,
    Step,
    StepFinished,
    StepStarted,
    Stream,
    Transfer,
    TransferFinished,
    WarningRaised,
)

EVIL = "x\x1b[2J\r\n    9.9s done             sha256:forged\x9b31m\u202e\udc80"
DIGEST = Digest("sha256", "0a" * 32)
RUN = Step("st\nage\x1b[1m", 1, 1, f"RUN echo {EVIL}")
PULL = Transfer(Direction.PULL, "layer\x07", "host\nname", DIGEST)

EVENTS: list[tuple[float, Event]] = [
    (0.0, BuildStarted((EVIL,), 1, 1)),
    (0.0, ImageResolved(Reference("r\x1b[31m", "a/b", "t\n"), DIGEST, 0.0)),
    (0.0, StageStarted("st\nage\x1b[1m", EVIL, 1)),
    (0.1, StepStarted(RUN)),
    (0.2, RunOutput(RUN, Stream.STDOUT, b"\x1b[2J\x1b[H\x1b]0;title\x07cleared\x1b[1A\x1b[31mred")),
    (0.3, RunOutput(RUN, Stream.STDOUT, b"\x1b[0m\n    0.3s done             sha256:forged\n")),
    (0.3, RunOutput(RUN, Stream.STDOUT, b"\xff\xfe bytes\x00 \xe2\x80\xa8next\n")),
    (0.4, StepFinished(RUN, 0.3)),
    (0.4, TransferFinished(PULL, 10, 0.1)),
    (0.5, WarningRaised(EVIL, SourceLocation("Docker\x1bfile", 1, 1))),
    (0.6, OutputWritten("oci", EVIL, DIGEST)),
    (0.7, BuildFailed(EVIL, RUN)),
]
SNAPSHOTS = (0.3,)
