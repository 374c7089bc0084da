"""From a Dockerfile to a plan: arguments resolved, bases found, what is not needed left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.expansion import Expander, located
from asyncbuild.dockerfile.parser import parse_trigger
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.errors import DockerfileError, SourceLocation, UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.plan.checks import check_plan
from asyncbuild.plan.contexts import NamedContexts
from asyncbuild.plan.globals import platform_arguments, resolve_globals
from asyncbuild.plan.nouns import (
    Base,
    ContextRef,
    ImageRef,
    Need,
    Plan,
    PlannedImage,
    PlanStage,
    Scratch,
    StageRef,
    Step,
)
from asyncbuild.plan.scope import BuildArguments
from asyncbuild.plan.sources import StageNames, sources_in
from asyncbuild.records import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the command line says about a plan.

    ``build_args`` with the value None were named without a value and have none in the environment: they
    do not count. ``target`` is a stage's name or number; None is the last stage. ``contexts`` are named
    build contexts.
    """

    platform: Platform
    build_platform: Platform
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    target: str | None = None
    contexts: NamedContexts = field(default_factory=NamedContexts)


def make_plan(dockerfile: i.Dockerfile, request: PlanRequest) -> Plan:
    """Plan the build of ``dockerfile``.

    Raises DockerfileError for what the file gets wrong, UsageError for a target that does not exist.
    """
    given = {name: value for name, value in request.build_args.items() if value is not None}
    named = request.target or dockerfile.stages[-1].from_.name or ""
    predefined = platform_arguments(request.build_platform, request.platform, named)
    arguments = resolve_globals(dockerfile, given, predefined)
    froms = [stage.from_ for stage in dockerfile.stages]
    names = StageNames.of(froms, request.platform, request.contexts)
    stages: list[PlanStage] = []
    for index, stage in enumerate(dockerfile.stages):
        base, platform = _base(stage.from_, index, names, arguments)
        if isinstance(base, StageRef):
            platform = stages[base.index].platform
        replaced = names.replaced(index, platform)
        base = base if replaced is None else replaced
        steps: list[Step] = []
        if isinstance(base, ContextRef):
            steps.append(_copy_of(base, stage.from_))
            base = Scratch()
        if replaced is None:
            triggered = _local_triggers(dockerfile, base, stage.from_.location)
            find = partial(_source, names, index)
            steps += [_step(item, base, find, triggered=True) for item in triggered]
            steps += [_step(item, base, find) for item in stage.instructions]
        stages.append(
            PlanStage(index, stage.from_.name, base, platform, tuple(steps), stage.from_.location)
        )
    target = find_target(request.target, names.names)
    places = request.contexts.places
    whole = Plan(tuple(stages), target, (), (), arguments, request.platform, contexts=places)
    plan = needing(whole, [target])
    return replace(plan, notices=check_plan(dockerfile, plan), dockerfile=dockerfile)


def needing(plan: Plan, indices: Iterable[int]) -> Plan:
    """The same plan with the stages that ``indices`` need, and the images that these read."""
    needed = plan.closure(indices)
    stages = [plan.all_stages[index] for index in needed]
    return replace(plan, needed=needed, images=planned_images(plan, stages))


def planned_images(plan: Plan, stages: Iterable[PlanStage]) -> tuple[PlannedImage, ...]:
    """The distinct images that ``stages`` name, in order, each where it is named first."""
    names = StageNames(tuple(stage.name for stage in plan.all_stages), plan.platform)
    found: dict[ImageRef, PlannedImage] = {}
    for stage in stages:
        mentions: list[tuple[Base, SourceLocation]] = [(stage.base, stage.location)]
        mentions += [
            (s, step.instruction.location) for step in stage.steps for s in step.sources if s
        ]
        for ref, location in mentions:
            if isinstance(ref, ImageRef) and ref not in found:
                hint = names.hint(ref.reference.repository.removeprefix("library/"), stage.index)
                found[ref] = PlannedImage(ref, location, hint)
    return tuple(found.values())


def find_target(target: str | None, names: Sequence[str | None]) -> int:
    """The index of the stage that ``--target`` names, by name or number; the last one for None."""
    if not target:
        return len(names) - 1
    matching = [index for index, name in enumerate(names) if name == target.lower()]
    if matching:
        return matching[-1]
    if target.isascii() and target.isdigit() and int(target) < len(names):
        return int(target)
    known = [name for name in names if name]
    hint = did_you_mean(target.lower(), known)
    if hint is None and known:
        hint = f"the stages are {', '.join(dict.fromkeys(known))}"
    raise UsageError(f"--target {target}: there is no such stage", hint=hint)


def trigger_steps(plan: Plan, index: int, triggers: Sequence[str]) -> tuple[Step, ...]:
    """The steps that the ONBUILD ``triggers`` of stage ``index``'s base image add in front of its own.

    Their sources may name any earlier stage of the file, needed or not. Triggers of a base that is a
    stage of this file are in the plan already. Raises DockerfileError at the stage's FROM.
    """
    stage = plan.all_stages[index]
    contexts = NamedContexts.parse(plan.contexts)
    names = StageNames(tuple(item.name for item in plan.all_stages), plan.platform, contexts)
    find = partial(_source, names, index)
    parsed = [parse_trigger(trigger, stage.location) for trigger in triggers]
    return tuple(_step(item, stage.base, find, triggered=True) for item in parsed)


def with_triggers(plan: Plan, index: int, triggers: Sequence[str]) -> Plan:
    """The plan in which stage ``index`` has the steps of its base image's ONBUILD ``triggers``."""
    stage = plan.all_stages[index]
    steps = trigger_steps(plan, index, triggers)
    stages = list(plan.all_stages)
    stages[index] = replace(stage, steps=(*steps, *stage.steps))
    return needing(replace(plan, all_stages=tuple(stages)), [plan.target])


def need_of(instruction: i.Instruction, base: Base) -> Need:
    """What ``instruction`` needs of its base. Nothing is unknown about scratch."""
    if isinstance(instruction, i.Run):
        return Need.ROOT
    if isinstance(base, Scratch):
        return Need.NOTHING
    if isinstance(instruction, i.Copy | i.Add):
        numeric = not instruction.chown.strip("0123456789:")
        if not numeric:
            return Need.ROOT
        return Need.CONFIG if instruction.is_linked else Need.FACTS
    return Need.FACTS if isinstance(instruction, i.Workdir) else Need.CONFIG


def _copy_of(context: ContextRef, line: i.From) -> Step:
    """The step that begins a stage which is FROM files: all of them, to the root."""
    copied = i.Copy(("/",), "/", from_=context.name, location=line.location, original=line.original)
    return Step(copied, Need.NOTHING, (context,))


def _source(names: StageNames, index: int, name: str, location: SourceLocation) -> Base:
    return names.source(name, index, location)


def _step(
    instruction: i.Instruction, base: Base, find: partial[Base], *, triggered: bool = False
) -> Step:
    sources = sources_in(instruction, find)
    return Step(instruction, need_of(instruction, base), sources, triggered)


def _local_triggers(
    dockerfile: i.Dockerfile, base: Base, location: SourceLocation
) -> list[i.Instruction]:
    """What the ONBUILDs of a base that is a stage of this file say, placed at the FROM that uses it."""
    if not isinstance(base, StageRef):
        return []
    return [
        parse_trigger(instruction.trigger, location)
        for instruction in dockerfile.stages[base.index].instructions
        if isinstance(instruction, i.Onbuild)
    ]


def _base(
    line: i.From,
    index: int,
    names: StageNames,
    arguments: BuildArguments,
) -> tuple[Base, Platform]:
    """What a FROM line means, once its words are expanded with the global arguments."""
    expander = Expander(arguments.globals, arguments.escape)
    try:
        name = expander.word(line.image)
        platform_text = expander.word(line.platform)
    except ValueError as problem:
        raise located(problem, line.location) from None
    try:
        platform = _platform(line, platform_text, names.platform)
        return names.base(name, index, platform, line.location), platform
    except DockerfileError as error:
        if expander.unmatched:
            unset = " and ".join(sorted(expander.unmatched))
            error.hint = (
                f"{unset} has no value: give an ARG before the first FROM a default, or --build-arg"
            )
        raise


def _platform(line: i.From, text: str, default: Platform) -> Platform:
    if not line.platform:
        return default
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise DockerfileError(f"FROM --platform: {error}", location=line.location) from None
