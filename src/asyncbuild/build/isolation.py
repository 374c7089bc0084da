"""A RUN where there is no way to execute any is an error before anything is fetched."""

from __future__ import annotations

import os

from asyncbuild.dockerfile import instructions as ins
from asyncbuild.errors import IsolationError
from asyncbuild.plan.nouns import Plan
from asyncbuild.rootfs.isolation import Isolation


def check_plan_isolation(plan: Plan, wanted: Isolation) -> None:
    """Raise `IsolationError` at the first RUN that is needed, if it is known already that it cannot be.

    So it is with ``none``, and for a user who is not root: the command line enters a user namespace, of
    which one is root, before anything else, if this place permits that.
    """
    if wanted is Isolation.NONE:
        message = "RUN is not executed with --isolation none"
        hint = "--isolation auto takes what is possible; COPY, ADD and metadata need none"
    elif os.geteuid() != 0:
        message = (
            "RUN cannot be executed here: this user is not root, and user namespaces are refused"
        )
        hint = (
            "asyncbuild doctor says what would help; COPY, ADD and metadata need nothing,"
            " and a stage that only brings files can be built elsewhere and copied from its image"
        )
    else:
        return
    for stage in plan.stages:
        for step in stage.steps:
            if isinstance(step.instruction, ins.Run):
                raise IsolationError(message, hint=hint).at(step.instruction.location)
