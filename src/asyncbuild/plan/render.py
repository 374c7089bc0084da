"""A plan as text for people and for golden files: the same plan always gives the same text."""

from __future__ import annotations

from collections.abc import Iterator

from asyncbuild.dockerfile.instructions import Add, Copy, Run
from asyncbuild.dockerfile.remote import redacted
from asyncbuild.dockerfile.source import Notice
from asyncbuild.plan.nouns import Base, ContextRef, ImageRef, Need, Plan, PlanStage, StageRef, Step

_WIDTH = 96


def render(plan: Plan) -> str:
    """What `asyncbuild plan` prints, with a newline at the end.

    A step's line shows ``+`` if an ONBUILD of the base brought it, its line in the Dockerfile, what it
    needs of the base (nothing, config, facts or root), and the instruction. A stage's line shows what the
    whole build needs of its base.
    """
    return "\n".join(_lines(plan)) + "\n"


def _lines(plan: Plan) -> Iterator[str]:
    yield f"target: {_stage_name(plan.target_stage)} for {plan.platform}"
    yield f"images: {len(plan.images) or 'none'}"
    for image in plan.images:
        yield f"  {_ref(image.image)}"
    for stage in plan.stages:
        yield ""
        yield from _stage(stage, plan.stage_need(stage.index))
    left_out = [stage for stage in plan.all_stages if stage.index not in plan.needed]
    if left_out:
        yield ""
        yield "not needed: " + ", ".join(map(_stage_name, left_out))
    if plan.notices:
        yield ""
        yield from map(_notice, plan.notices)


def _stage(stage: PlanStage, need: Need) -> Iterator[str]:
    yield f"{_stage_name(stage)} from {_ref(stage.base)}, needs {need.name.lower()}"
    for step in stage.steps:
        mark = "+" if step.triggered else " "
        line = step.instruction.location.line
        yield f" {mark}{line:4d}  {step.need.name.lower():7s}  {_step(step)}"


def _step(step: Step) -> str:
    instruction = step.instruction
    text = " ".join(instruction.original.split())
    if len(text) > _WIDTH:
        text = f"{text[: _WIDTH - 1]}…"
    notes = [f"from {_ref(source)}" for source in step.sources if source is not None]
    if isinstance(instruction, Run | Copy | Add):
        for heredoc in instruction.heredocs:
            count = heredoc.body.count("\n")
            notes.append(f"{heredoc.name}: {count} line{'' if count == 1 else 's'}")
    return f"{text}  [{'; '.join(notes)}]" if notes else text


def _stage_name(stage: PlanStage) -> str:
    return f"stage {stage.index}" + (f" ({stage.name})" if stage.name else "")


def _ref(ref: Base) -> str:
    if isinstance(ref, ImageRef):
        return f"image {ref.reference} for {ref.platform}"
    if isinstance(ref, ContextRef):
        return f"context {ref.name} ({redacted(ref.place)})"
    return f"stage {ref.index}" if isinstance(ref, StageRef) else "scratch"


def _notice(notice: Notice) -> str:
    place = f"line {notice.location.line}: " if notice.location else ""
    return f"warning: {place}{notice.message} ({notice.rule})"
