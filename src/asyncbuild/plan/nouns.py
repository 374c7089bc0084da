"""The nouns of a plan. Everything is data: a plan can be compared, printed, and sent elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TypeAlias

from asyncbuild.dockerfile.instructions import Dockerfile, Instruction
from asyncbuild.dockerfile.source import Notice
from asyncbuild.errors import SourceLocation
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.plan.scope import BuildArguments
from asyncbuild.records import dataclass, field


class Need(IntEnum):
    """What a step must know of its base before it can be done; each level includes those below."""

    NOTHING = 0
    CONFIG = 1
    """The base's configuration: its environment, working directory, shell."""
    FACTS = 2
    """Which directories and links the base has."""
    ROOT = 3
    """The base's whole file system: a process runs in it, or names of users are looked up."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image of a registry, for one platform."""

    reference: Reference
    platform: Platform


@dataclass(frozen=True, slots=True)
class StageRef:
    """Another stage of the same Dockerfile, by its index; always an earlier one."""

    index: int


@dataclass(frozen=True, slots=True)
class Scratch:
    """The empty image."""


@dataclass(frozen=True, slots=True)
class ContextRef:
    """A named build context that is files: ``place`` is a directory, a repository or a URL.

    Nothing is FROM it: such a stage is FROM scratch, and its first step copies all of it.
    """

    name: str
    place: str


FromBase: TypeAlias = ImageRef | StageRef | Scratch
"""What a stage begins with."""

Base: TypeAlias = FromBase | ContextRef
"""What a stage begins with, and what ``COPY --from`` or a mount reads from."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction in its stage, with its words as written.

    ``sources`` has one entry for ``COPY --from``, and one per mount for RUN (None: no ``from``).
    ``triggered`` steps come from an ONBUILD of the base; their place is the FROM that triggers them.
    """

    instruction: Instruction
    need: Need
    sources: tuple[Base | None, ...] = ()
    triggered: bool = False

    @property
    def source(self) -> Base | None:
        """What ``COPY --from`` reads from; None is the context."""
        return self.sources[0] if self.sources else None


@dataclass(frozen=True, slots=True)
class PlanStage:
    """One stage. Its steps begin with the ONBUILD triggers of a base that is a stage of this file."""

    index: int
    name: str | None
    base: FromBase
    platform: Platform
    steps: tuple[Step, ...]
    location: SourceLocation

    @property
    def label(self) -> str:
        """What progress and errors call it: its name, or ``stage-N``."""
        return self.name or f"stage-{self.index}"

    @property
    def need(self) -> Need:
        """The most that any of its own steps needs of the base; an image's configuration always.

        `Plan.stage_need` counts the other stages too.
        """
        least = Need.CONFIG if isinstance(self.base, ImageRef) else Need.NOTHING
        return max((least, *(step.need for step in self.steps)))

    @property
    def dependencies(self) -> frozenset[int]:
        """The indices of the stages that this one names."""
        refs = (self.base, *sources_of(self.steps))
        return frozenset(ref.index for ref in refs if isinstance(ref, StageRef))


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """An image that the build reads, where it is first named, and a hint for when it does not exist."""

    image: ImageRef
    location: SourceLocation
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done.

    ``all_stages`` has every stage of the file at its index: a trigger that only the base image knows may
    name one that nothing else needs. ``needed`` is the indices of those that the target needs, ascending.
    ``notices`` are what the build checks can say before anything is fetched; ``dockerfile`` is what they
    look at again. ``contexts`` are the places of named build contexts.
    """

    all_stages: tuple[PlanStage, ...]
    target: int
    needed: tuple[int, ...]
    images: tuple[PlannedImage, ...]
    arguments: BuildArguments
    platform: Platform
    notices: tuple[Notice, ...] = ()
    dockerfile: Dockerfile | None = field(default=None, compare=False, repr=False)
    contexts: Mapping[str, str] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[PlanStage, ...]:
        """The stages that are needed, in order."""
        return tuple(self.all_stages[index] for index in self.needed)

    @property
    def target_stage(self) -> PlanStage:
        """The stage that becomes the image."""
        return self.all_stages[self.target]

    @property
    def line(self) -> frozenset[int]:
        """The target, the stage that it is FROM, and so on: their layers are the image's."""
        line = [self.target_stage]
        while isinstance(line[-1].base, StageRef):
            line.append(self.all_stages[line[-1].base.index])
        return frozenset(stage.index for stage in line)

    def stage_need(self, index: int) -> Need:
        """What the whole build needs of a stage's base.

        It is the most that the stage itself needs, and the stages that are built from it; a stage that
        files are copied from is read as a whole.
        """
        return max(self.all_stages[index].need, self.users_need(index))

    def users_need(self, index: int) -> Need:
        """What the stages that use stage ``index`` need of its base."""
        found = Need.NOTHING
        for other in self.stages:
            if other.index > index and index in other.dependencies:
                if StageRef(index) in sources_of(other.steps):
                    return Need.ROOT
                found = max(found, self.stage_need(other.index))
        return found

    def closure(self, indices: Iterable[int]) -> tuple[int, ...]:
        """``indices`` and every stage that they need, ascending: each comes after what it needs."""
        found: set[int] = set()
        waiting = list(indices)
        while waiting:
            index = waiting.pop()
            if index not in found:
                found.add(index)
                waiting += self.all_stages[index].dependencies
        return tuple(sorted(found))


def sources_of(steps: Iterable[Step]) -> tuple[Base, ...]:
    """Everything that ``steps`` read from beside their base and the context, in order."""
    return tuple(source for step in steps for source in step.sources if source is not None)
