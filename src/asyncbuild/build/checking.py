"""Build checks during a build: what they find is told as warnings, once.

The plan's own notices are told at once. What depends on the configuration of bases or on the context is
told when these are there, which the build asks for anyway: no request and no waiting is added. With
``check=error=true`` a finding ends the build before anything is pushed.
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncbuild.build.session import Session
from asyncbuild.dockerfile.source import Notice
from asyncbuild.plan.checks import (
    BaseFacts,
    Surroundings,
    check_options,
    check_plan,
    violation,
)
from asyncbuild.plan.nouns import ImageRef, Plan
from asyncbuild.plan.planner import with_triggers
from asyncbuild.report.events import Reporter, WarningRaised


def tell_notices(plan: Plan, reporter: Reporter) -> None:
    """Tell what the plan says. Raises DockerfileError if the file wants findings to be errors."""
    _tell(plan, plan.notices, reporter)


async def check_late(session: Session) -> None:
    """Look again once bases and context are known, and tell what is new. Raises as `tell_notices`.

    A base or a context that cannot be had ends the build elsewhere, with its own error.
    """
    plan = session.plan
    bases: dict[ImageRef, BaseFacts] = {}
    for stage in plan.stages:
        if isinstance(stage.base, ImageRef):
            image = await session.supply.image(stage.base.reference, stage.base.platform).wait()
            bases[stage.base] = BaseFacts.of(image.config)
            triggers = image.config.runtime.on_build
            plan = with_triggers(plan, stage.index, triggers) if triggers else plan
    context = await session.context.wait()
    known = Surroundings(bases, ignore=context.ignored)
    found = check_plan(plan.dockerfile, plan, known) if plan.dockerfile else ()
    new = [notice for notice in found if notice not in session.plan.notices]
    _tell(plan, new, session.job.reporter)


def _tell(plan: Plan, notices: Iterable[Notice], reporter: Reporter) -> None:
    for notice in notices:
        reporter.emit(WarningRaised(f"{notice.message} ({notice.rule})", notice.location))
    if plan.dockerfile is None:
        return
    if check_options(plan.dockerfile, plan.arguments.given).error:
        error = violation(notices)
        if error is not None:
            raise error
