"""A RUN where there is no way to execute any is an error before anything is fetched."""

from __future__ import annotations

import os

from asyncbuild.dockerfile import instructions as ins
from asyncbuild.errors import IsolationError
from asyncbuild.plan.nouns import Plan
from asyncbuild.rootfs.isolation import Isolation, namespace_obstacles


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
        seen = "; ".join(namespace_obstacles())
        here = f" (here: {seen})" if seen else ""
        hint = (
            "root in a container with the usual rights can (--isolation chroot), or a user whom seccomp,"
            f" AppArmor and sysctl permit user namespaces{here};"
            " COPY, ADD and metadata need nothing; asyncbuild doctor tells more"
        )
    else:
        return
    for stage in plan.stages:
        for step in stage.steps:
            if isinstance(step.instruction, ins.Run):
                raise IsolationError(message, hint=hint).at(step.instruction.location)
