"""Connections ahead: when a base is known, mounts and uploads go out together, one connection each.

To dial only then costs each of them a round trip, with TLS two or three. How many there will be is about
known from the plan; so they are dialled while the first answers are awaited. Near registries are not: it
would save nothing.
"""

from __future__ import annotations

from asyncbuild.build.session import Session
from asyncbuild.plan.extent import wave_of


def dial_ahead(session: Session) -> None:
    """Dial to every registry that the image goes to, in the background."""
    count, job = wave_of(session.plan), session.job
    repositories = {item.registry: item.repository for item in reversed(session.destinations)}
    for registry, repository in repositories.items():
        job.nursery.start_soon(job.registries.dial_ahead, registry, repository, count)
