"""Connections ahead: when a base is known, mounts and uploads go out together, one connection each.

To dial only then costs each of them a round trip, with TLS two or three. How many there will be is about
known from the plan; so they are dialled while the first answers are awaited. Near registries are not: it
would save nothing.
"""

from __future__ import annotations

from asyncbuild.build.session import Session
from asyncbuild.dockerfile.instructions import Add, Copy, Run, Workdir

_OF_A_BASE = 16
"""Layers that most bases do not exceed, the configuration, and what the caches are asked meanwhile."""
_MOST = 40


def dial_ahead(session: Session) -> None:
    """Dial to every registry that the image goes to, in the background."""
    makers = (Run, Copy, Add, Workdir)
    count = _OF_A_BASE + sum(
        isinstance(step.instruction, makers)
        for stage in session.plan.stages
        if session.publishes(stage.index)
        for step in stage.steps
    )
    repositories = {item.registry: item.repository for item in reversed(session.destinations)}
    for registry, repository in repositories.items():
        session.job.nursery.start_soon(
            session.job.registries.dial_ahead, registry, repository, min(count, _MOST)
        )
