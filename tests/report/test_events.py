"""The events' own few rules."""

from dataclasses import dataclass, field

import pytest

from asyncbuild.image.digest import Digest
from asyncbuild.report.events import (
    BuildStarted,
    Direction,
    Event,
    Step,
    StepStarted,
    Tee,
    Transfer,
)


@dataclass
class Recorder:
    """Writes down what it is told."""

    told: list[str] = field(default_factory=list)
    broken: bool = False

    def emit(self, event: Event) -> None:
        """Note it."""
        self.told.append(type(event).__name__)

    def tick(self) -> None:
        """Note it."""
        self.told.append("tick")

    def close(self) -> None:
        """Note it."""
        self.told.append("close")
        if self.broken:
            raise OSError


def test_labels() -> None:
    """Steps and transfers are called by what people know of them."""
    digest = Digest("sha256", "0123456789abcdef" * 4)
    assert Step("build", 3, 7, "RUN x").label == "build 3/7"
    assert Transfer(Direction.PULL, "layer", "r", digest).label == "pull layer 0123456789ab"
    assert Transfer(Direction.PUSH, "layer", "r", serial=4).label == "push layer new-4"


def test_tee() -> None:
    """Every reporter is told everything, and closed even when one of them fails to."""
    first, second = Recorder(broken=True), Recorder()
    tee = Tee((first, second))
    tee.emit(BuildStarted((), 1, 1))
    tee.emit(StepStarted(Step("a", 1, 1, "")))
    tee.tick()
    with pytest.raises(OSError):
        tee.close()
    assert first.told == second.told == ["BuildStarted", "StepStarted", "tick", "close"]
