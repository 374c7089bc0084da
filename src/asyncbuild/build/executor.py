"""The stage executor: walks a stage's steps, and waits for exactly what the step at hand needs.

The narrative: a stage begins with what its FROM gives. Each step expands its words, changes the image's
configuration and perhaps the root, and leaves a line of history. What it changes in the root becomes a
layer while the next step already runs. How RUN, COPY, ADD and WORKDIR work on files is in `run_step` and
`copy_step`.
"""

from __future__ import annotations

from dataclasses import replace

import trio

from asyncbuild.build import metadata
from asyncbuild.build.copy_step import copy, make_working_directory
from asyncbuild.build.job import Job
from asyncbuild.build.layers import BaseLayer
from asyncbuild.build.metadata import ImageState
from asyncbuild.build.root import Root
from asyncbuild.build.run_step import run
from asyncbuild.build.session import Session
from asyncbuild.build.stage import Change, StageState
from asyncbuild.build.step import At
from asyncbuild.build.supply import BaseImage
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.history import HISTORY_COMMENT, HistoryContext, history_text
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.config import HistoryEntry
from asyncbuild.plan.nouns import ImageRef, PlanStage, StageRef, Step
from asyncbuild.plan.planner import trigger_steps
from asyncbuild.plan.scope import StageScope
from asyncbuild.plan.supported import check_instruction
from asyncbuild.report import events


async def execute_stage(session: Session, index: int) -> StageState:
    """Execute a stage and return how it ends; its layers may still be on their way."""
    stage = session.plan.all_stages[index]
    started = trio.current_time()
    state, todo = await _begin(session, stage)
    emit = session.job.reporter.emit
    emit(events.StageStarted(stage.label, _base_text(stage), len(todo)))
    if _has_run(todo):
        session.sandboxes.prepare()
    for number, step in enumerate(todo, 1):
        named = events.Step(stage.label, number, len(todo), _step_text(step))
        at = At(session, stage, step, named, state, more_runs=_has_run(todo[number:]))
        state = await _execute_and_tell(at)
    emit(events.StageFinished(stage.label, trio.current_time() - started))
    return state


async def _begin(session: Session, stage: PlanStage) -> tuple[StageState, tuple[Step, ...]]:
    """What FROM gives, and the steps: those of the base's ONBUILD triggers come first."""
    arguments = session.plan.arguments
    match stage.base:
        case ImageRef(reference, platform):
            try:
                base = await session.supply.image(reference, platform).wait()
            except AsyncbuildError as error:
                raise error.at(stage.location) from error
            triggers = trigger_steps(session.plan, stage.index, base.config.runtime.on_build)
            todo = (*triggers, *stage.steps)
            return _from_image(session, stage, base, todo), todo
        case StageRef(index):
            parent = await session.stage(index).wait()
            return replace(parent, image=parent.image.inherited()), stage.steps
        case _:
            image = ImageState.scratch(stage.platform)
            scope = StageScope.start(arguments, image.runtime.environment)
            return StageState(image, scope), stage.steps


def _from_image(
    session: Session, stage: PlanStage, base: BaseImage, todo: tuple[Step, ...]
) -> StageState:
    """The state after FROM an image. Its layers go to the destinations from here on, and are fetched
    from here on if a step will look at them.
    """
    layers = tuple(
        BaseLayer(descriptor, diff_id, base.reference) for descriptor, diff_id in base.layers
    )
    if session.publishes(stage.index):
        for layer in layers:
            session.publish(layer)
    image = ImageState.of_base(base.config)
    scope = StageScope.start(session.plan.arguments, image.runtime.environment)
    if session.looks_inside(stage, todo):
        session.supply.root(base)
    return StageState(image, scope, Root(lambda: session.supply.root(base)), layers)


async def _execute_and_tell(at: At) -> StageState:
    emit = at.session.job.reporter.emit
    emit(events.StepStarted(at.named))
    started = trio.current_time()
    try:
        state = await _execute(at)
    except AsyncbuildError as error:
        seconds = trio.current_time() - started
        emit(events.StepFinished(at.named, seconds, events.Outcome.FAILED))
        raise error.at(at.step.instruction.location) from error
    emit(events.StepFinished(at.named, trio.current_time() - started))
    at.session.steps_executed += 1
    return state


async def _execute(at: At) -> StageState:
    """One step: words, files, configuration, history, in this order."""
    state = at.state
    instruction = state.scope.resolve(at.step.instruction).instruction
    check_instruction(instruction)
    change: Change | None = None
    match instruction:
        case ins.Run():
            change = await run(at, instruction)
        case ins.Copy() | ins.Add():
            change = await copy(at, instruction)
        case ins.Workdir():
            change = await make_working_directory(at, instruction)
        case _:
            pass
    history = _history(at.session.job, state, instruction, layer=change is not None)
    image = metadata.apply(state.image, instruction)
    state = replace(state, scope=state.scope.after(instruction), image=image.with_history(*history))
    if change is None:
        return state
    layers = state.layers if change.layer is None else (*state.layers, change.layer)
    return replace(state, root=change.root, layers=layers)


def _history(
    job: Job, state: StageState, instruction: ins.Instruction, *, layer: bool
) -> tuple[HistoryEntry, ...]:
    """The line that BuildKit writes for this instruction, if it writes one."""
    context = HistoryContext(
        state.image.runtime.shell, state.image.working_dir, state.scope.history_args
    )
    text = history_text(instruction, context)
    if text is None:
        return ()
    return (HistoryEntry(text, job.created_text, HISTORY_COMMENT, empty_layer=not layer),)


def _has_run(todo: tuple[Step, ...]) -> bool:
    return any(isinstance(step.instruction, ins.Run) for step in todo)


def _base_text(stage: PlanStage) -> str:
    match stage.base:
        case ImageRef(reference, _):
            return reference.familiar
        case StageRef(index):
            return f"stage {index}"
        case _:
            return "scratch"


def _step_text(step: Step) -> str:
    text = step.instruction.original
    return f"ONBUILD {text}" if step.triggered else text
