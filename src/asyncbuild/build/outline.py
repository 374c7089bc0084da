"""The outline of a stage: what every step means, before any of them is executed.

Words, the configuration and the history depend on the instructions and on the base's configuration alone,
never on what a step does to files. So they are worked out for a whole stage as soon as its base's
configuration is known: errors in words show before anything runs, and all cache keys can be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncbuild.build import metadata
from asyncbuild.build.metadata import ImageState
from asyncbuild.build.resolving import BaseImage
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.history import HISTORY_COMMENT, HistoryContext, history_text
from asyncbuild.dockerfile.remote import redacted
from asyncbuild.image.config import HistoryEntry
from asyncbuild.layers.paths import clean
from asyncbuild.plan.nouns import PlanStage, Step
from asyncbuild.plan.remotes import check_remotes
from asyncbuild.plan.scope import StageScope
from asyncbuild.records import dataclass
from asyncbuild.report import events
from asyncbuild.report.escape import one_line

_LONGEST_TEXT = 200


@dataclass(frozen=True, slots=True, eq=False)
class OutlinedStep:
    """A step with its words resolved; ``image`` and ``scope`` are as they are before it. ``volumes`` are
    the paths of the VOLUMEs of its stage that stand before it, clean.
    """

    step: Step
    instruction: ins.Instruction
    named: events.Step
    image: ImageState
    scope: StageScope
    volumes: frozenset[str] = frozenset()

    @property
    def changes_files(self) -> bool:
        """Whether the step makes a layer."""
        return makes_layer(self.instruction, self.image)

    @property
    def about(self) -> str:
        """The step as the Dockerfile has it, on one line: variables are not replaced, and passwords in
        URLs are blotted out.
        """
        return one_line(redacted(self.named.text), _LONGEST_TEXT)


@dataclass(frozen=True, slots=True, eq=False)
class StageOutline:
    """A stage: what it is built upon, its steps, and what its image's configuration will be.

    ``base`` is the image, or the outline of the stage, that it is FROM; None is scratch.
    """

    stage: PlanStage
    base: BaseImage | StageOutline | None
    steps: tuple[OutlinedStep, ...]
    image: ImageState
    scope: StageScope

    @property
    def file_steps(self) -> tuple[OutlinedStep, ...]:
        """The steps that make layers, in order."""
        return tuple(step for step in self.steps if step.changes_files)

    @property
    def lowest(self) -> StageOutline:
        """The stage at the bottom of its line of stages: the one that is FROM an image or scratch."""
        outline = self
        while isinstance(outline.base, StageOutline):
            outline = outline.base
        return outline

    @property
    def base_image(self) -> BaseImage | None:
        """The image at the bottom of its line of stages."""
        base = self.lowest.base
        assert not isinstance(base, StageOutline)
        return base


def has_run(steps: Iterable[OutlinedStep]) -> bool:
    """Whether a RUN is among them."""
    return any(isinstance(step.instruction, ins.Run) for step in steps)


def listed_steps(steps: Sequence[OutlinedStep]) -> int:
    """How many of ``steps``, which make layers, a listing tells of: up to the last RUN, and the WORKDIRs
    that come right behind it; 0 if there is no RUN.
    """
    runs = [place for place, step in enumerate(steps) if isinstance(step.instruction, ins.Run)]
    count = runs[-1] + 1 if runs else 0
    while 0 < count < len(steps) and isinstance(steps[count].instruction, ins.Workdir):
        count += 1
    return count


def layers_and_listed(outline: StageOutline, count: int) -> tuple[int, int]:
    """How many layers are upon the base image behind the first ``count`` of a stage's steps that make any,
    and how many of them a listing may tell of.
    """
    below = outline.base
    steps = outline.file_steps[:count]
    lower = (0, 0)
    if isinstance(below, StageOutline):
        lower = layers_and_listed(below, len(below.file_steps))
    own = listed_steps(steps)
    return lower[0] + len(steps), lower[0] + own if own else lower[1]


def outline_stage(
    stage: PlanStage,
    todo: tuple[Step, ...],
    base: BaseImage | StageOutline | None,
    start: tuple[ImageState, StageScope],
    created: str,
) -> StageOutline:
    """Walk through ``todo`` from ``start``; raises DockerfileError for words that cannot be resolved."""
    image, scope = start
    volumes: frozenset[str] = frozenset()
    steps = []
    for number, step in enumerate(todo, 1):
        instruction = scope.resolve(step.instruction).instruction
        if isinstance(instruction, ins.Copy | ins.Add):
            check_remotes(instruction)
        named = events.Step(stage.label, number, len(todo), _step_text(step))
        steps.append(OutlinedStep(step, instruction, named, image, scope, volumes))
        if isinstance(instruction, ins.Volume):
            volumes |= {clean(path) for path in instruction.paths if path.startswith("/")}
        history = _history(instruction, image, scope, created)
        image = metadata.apply(image, instruction).with_history(*history)
        scope = scope.after(instruction)
    return StageOutline(stage, base, tuple(steps), image, scope)


def makes_layer(instruction: ins.Instruction, image: ImageState) -> bool:
    """RUN, COPY and ADD always do, WORKDIR except for ``/`` (as in BuildKit)."""
    if isinstance(instruction, ins.Workdir):
        return metadata.apply(image, instruction).working_dir.strip("/") != ""
    return isinstance(instruction, ins.Run | ins.Copy | ins.Add)


def _history(
    instruction: ins.Instruction, image: ImageState, scope: StageScope, created: str
) -> tuple[HistoryEntry, ...]:
    """The line that BuildKit writes for this instruction, if it writes one."""
    context = HistoryContext(image.runtime.shell, image.working_dir, scope.history_args)
    text = history_text(instruction, context)
    if text is None:
        return ()
    empty = not makes_layer(instruction, image)
    return (HistoryEntry(text, created, HISTORY_COMMENT, empty_layer=empty),)


def _step_text(step: Step) -> str:
    text = step.instruction.original
    return f"ONBUILD {text}" if step.triggered else text


def inherited_start(outline: StageOutline) -> tuple[ImageState, StageScope]:
    """What a stage that is FROM this one starts with."""
    return outline.image.inherited(), outline.scope
