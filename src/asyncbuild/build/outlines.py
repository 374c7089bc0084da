"""Where a stage's outline comes from: its base's configuration, or the outline of the stage it is FROM."""

from __future__ import annotations

from asyncbuild.build.metadata import ImageState
from asyncbuild.build.outline import StageOutline, inherited_start, outline_stage
from asyncbuild.build.session import Session
from asyncbuild.errors import AsyncbuildError
from asyncbuild.plan.nouns import ImageRef, StageRef
from asyncbuild.plan.planner import trigger_steps
from asyncbuild.plan.scope import StageScope


async def outline_of(session: Session, index: int) -> StageOutline:
    """The outline of stage ``index``; the steps of its base's ONBUILD triggers come first."""
    plan, created = session.plan, session.job.created_text
    stage = plan.all_stages[index]
    match stage.base:
        case ImageRef(reference, platform):
            try:
                base = await session.supply.image(reference, platform).wait()
            except AsyncbuildError as error:
                raise error.at(stage.location) from error
            triggers = trigger_steps(plan, index, base.config.runtime.on_build)
            image = ImageState.of_base(base.config)
            start = (image, StageScope.start(plan.arguments, image.runtime.environment))
            return outline_stage(stage, (*triggers, *stage.steps), base, start, created)
        case StageRef(parent):
            outline = await session.outline(parent).wait()
            return outline_stage(stage, stage.steps, outline, inherited_start(outline), created)
        case _:
            image = ImageState.scratch(stage.platform)
            start = (image, StageScope.start(plan.arguments, image.runtime.environment))
            return outline_stage(stage, stage.steps, None, start, created)
