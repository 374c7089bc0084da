"""What happens in a build, as typed facts: the build emits them, reporters show them.

Times are not in the events: a reporter stamps what it is told with its own clock. Durations are in
seconds, sizes in bytes. Texts may come from anywhere (a Dockerfile, a registry, a command); reporters
escape them (`escape`), emitters do not.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from asyncbuild.errors import SourceLocation
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field


class Outcome(Enum):
    """How a step ended."""

    EXECUTED = "executed"
    CACHED = "cached"
    SKIPPED = "skipped"
    FAILED = "failed"


class Stream(Enum):
    """Which of a command's streams bytes were written to."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Direction(Enum):
    """Whether a transfer comes or goes."""

    PULL = "pull"
    PUSH = "push"


class TransferOutcome(Enum):
    """How a transfer ended: with its bytes moved, or without need to move them."""

    MOVED = "moved"
    MOUNTED = "mounted"
    EXISTS = "exists"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a stage; ``index`` counts from 1 to ``total``, ``text`` is the instruction."""

    stage: str
    index: int
    total: int
    text: str

    @property
    def label(self) -> str:
        """How a step is called in output: ``build 3/7``."""
        return f"{self.stage} {self.index}/{self.total}"


@dataclass(frozen=True, slots=True)
class Transfer:
    """One blob on its way; ``what`` is ``layer``, ``config``, ``manifest``, or ``file`` and its name.

    A layer that is sent while it is being made has no digest yet; ``serial`` tells it from others.
    """

    direction: Direction
    what: str
    registry: str
    digest: Digest | None = None
    serial: int = 0

    @property
    def blob(self) -> str:
        """How the blob is called in output: ``layer 0123456789ab``; a file has its name only."""
        if self.digest is None and self.direction is Direction.PULL:
            return self.what
        return f"{self.what} {self.digest.short if self.digest else f'new-{self.serial}'}"

    @property
    def label(self) -> str:
        """How a transfer is called in output: ``pull layer 0123456789ab``."""
        return f"{self.direction.value} {self.blob}"


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a build did, for its last line and the metadata file."""

    seconds: float = 0.0
    bytes_received: int = 0
    bytes_sent: int = 0
    requests: int = 0
    layers_pulled: int = 0
    layers_pushed: int = 0
    layers_mounted: int = 0
    layers_existing: int = 0
    steps_executed: int = 0
    steps_cached: int = 0


@dataclass(frozen=True, slots=True)
class BuildStarted:
    """The plan is made and its work begins."""

    names: tuple[str, ...]
    stages: int
    steps: int


@dataclass(frozen=True, slots=True)
class ImageResolved:
    """A name has become a digest; ``seconds`` is how long its registry took."""

    reference: Reference
    digest: Digest
    seconds: float


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins; ``base`` is what its FROM says."""

    stage: str
    base: str
    steps: int


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage's last step is done."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins."""

    step: Step


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step is over, in whichever way."""

    step: Step
    seconds: float
    outcome: Outcome = Outcome.EXECUTED


@dataclass(frozen=True, slots=True)
class RunOutput:
    """Bytes that a RUN's command wrote, cut anywhere."""

    step: Step
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class TransferStarted:
    """A transfer begins; ``total`` is None while the size is unknown."""

    transfer: Transfer
    total: int | None


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """``done`` bytes of a transfer have moved so far."""

    transfer: Transfer
    done: int


@dataclass(frozen=True, slots=True)
class TransferFinished:
    """A transfer is over; ``moved`` is what went over the network."""

    transfer: Transfer
    moved: int
    seconds: float
    outcome: TransferOutcome = TransferOutcome.MOVED


@dataclass(frozen=True, slots=True)
class LayerUnpacked:
    """A pulled layer has become files; ``size`` is that of its tar."""

    diff_id: DiffId
    entries: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LayerPacked:
    """A step's changes have become a layer: ``unpacked`` bytes of tar, ``size`` compressed."""

    step: Step
    digest: Digest
    diff_id: DiffId
    unpacked: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ImagePushed:
    """A name at a registry now means this manifest."""

    reference: Reference
    digest: Digest


@dataclass(frozen=True, slots=True)
class OutputWritten:
    """An archive or a layout is complete; ``kind`` is ``oci`` or ``docker``."""

    kind: str
    destination: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class WarningRaised:
    """Something that a person should know and that stops nothing."""

    text: str
    location: SourceLocation | None = None


@dataclass(frozen=True, slots=True)
class BuildFinished:
    """The image is built and has gone everywhere; ``digest`` is its manifest's."""

    digest: Digest
    statistics: Statistics = field(default_factory=Statistics)


@dataclass(frozen=True, slots=True)
class BuildFailed:
    """The build ended without its result; whoever catches the error prints it.

    ``summary`` is one short line, ``step`` the failing one (its output has been shown when it finished);
    ``cancelled`` tells a Ctrl-C from a failure.
    """

    summary: str
    step: Step | None = None
    cancelled: bool = False
    statistics: Statistics = field(default_factory=Statistics)


Event = (
    BuildStarted
    | ImageResolved
    | StageStarted
    | StageFinished
    | StepStarted
    | StepFinished
    | RunOutput
    | TransferStarted
    | TransferProgress
    | TransferFinished
    | LayerUnpacked
    | LayerPacked
    | ImagePushed
    | OutputWritten
    | WarningRaised
    | BuildFinished
    | BuildFailed
)


class Reporter(Protocol):
    """Someone who is told what happens. All three are called from one thread and never wait.

    ``close`` is called once, whatever happened, and leaves the terminal as it was.
    """

    def emit(self, event: Event) -> None:
        """Take note of one event."""

    def tick(self) -> None:
        """Draw what time alone changes; called a few times a second while a build runs."""

    def close(self) -> None:
        """Show what is still held back; after this nothing is shown."""


@dataclass(frozen=True, slots=True)
class Tee:
    """A reporter that tells several others, in their order."""

    reporters: tuple[Reporter, ...]

    def emit(self, event: Event) -> None:
        """Tell each."""
        for reporter in self.reporters:
            reporter.emit(event)

    def tick(self) -> None:
        """Tick each."""
        for reporter in self.reporters:
            reporter.tick()

    def close(self) -> None:
        """Close each; an error of one does not keep the others open."""
        try:
            for reporter in self.reporters[:1]:
                reporter.close()
        finally:
            if self.reporters:
                Tee(self.reporters[1:]).close()
