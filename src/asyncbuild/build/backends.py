"""The backends, and which of them it is: by trying what this place permits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import trio

from asyncbuild.build.backend import Backend
from asyncbuild.build.chroot_backend import ChrootBackend
from asyncbuild.build.inplace_backend import InPlaceBackend
from asyncbuild.build.job import Job
from asyncbuild.build.overlay_backend import OverlayBackend
from asyncbuild.build.run_options import RunOptions
from asyncbuild.errors import IsolationError
from asyncbuild.layers.marks import form
from asyncbuild.report.events import WarningRaised
from asyncbuild.rootfs.isolation import (
    NEEDS,
    Ability,
    Isolation,
    Place,
    choose,
    no_way,
    probe,
)
from asyncbuild.rootfs.layering import find_program
from asyncbuild.rootfs.oci_runtimes import find_runtime
from asyncbuild.rootfs.sandbox import RuntimePlace, ServedPlace
from asyncbuild.rootfs.user_namespace import maps_one_id
from asyncbuild.store.store import Store

Maker: TypeAlias = Callable[[Job, RunOptions, Callable[[str], None]], Backend]
"""Makes a backend for a build; it may use the job's nursery, store and workers."""


def _overlay(
    job: Job, options: RunOptions, warn: Callable[[str], None], program: bytes = b""
) -> Backend:
    return OverlayBackend(job.nursery, job.ledger, warn, place=_place(options, program))


def _rootless(
    job: Job, options: RunOptions, warn: Callable[[str], None], program: bytes = b""
) -> Backend:
    if maps_one_id():
        warn(ONE_ID)
    place = _place(options, program)
    return OverlayBackend(job.nursery, job.ledger, warn, Isolation.ROOTLESS, place)


def _place(options: RunOptions, program: bytes) -> ServedPlace | RuntimePlace | None:
    """Where RUN happens: by a runtime, with layers that ``program`` shows."""
    if options.oci_runtime:
        runtime = find_runtime(options.oci_runtime, os.environ)
        return RuntimePlace(runtime.command, program)
    return ServedPlace(program) if program else None


ONE_ID = (
    "this user has no subordinate ids: RUN knows root alone, and cannot give files to others"
    " (/etc/subuid, /etc/subgid and newuidmap would change that)"
)

MAKERS: Mapping[Isolation, Maker] = {
    Isolation.OVERLAY: _overlay,
    Isolation.ROOTLESS: _rootless,
    Isolation.CHROOT: ChrootBackend,
    Isolation.INPLACE: InPlaceBackend,
}
"""How each backend is made. A new one stands here, and `Isolation` and `NEEDS` know it."""


WITH_MOUNTS = (Isolation.OVERLAY, Isolation.ROOTLESS)
"""The ways that a runtime can go: it mounts /proc and more, whatever it is given."""


async def choose_backend(job: Job, options: RunOptions) -> Backend:
    """The best that this place permits, or what was asked for. Raises `IsolationError` if that is not
    possible, or nothing is.
    """
    wanted = options.isolation
    place = await trio.to_thread.run_sync(_probe, job.store, wanted)
    if wanted is Isolation.ROOTLESS and not is_inside(place):
        raise _not_inside(place)
    ways = [way for way in MAKERS if way is not Isolation.ROOTLESS or is_inside(place)]
    isolation = choose(place, wanted, (*ways, Isolation.NONE))
    if isolation is Isolation.NONE:
        raise no_way(place) if wanted is Isolation.AUTO else _not_wanted()
    if options.oci_runtime and isolation not in WITH_MOUNTS:
        raise _no_runtime(place, options.oci_runtime)
    make = MAKERS[isolation]
    if isolation is Isolation.ROOTLESS and Ability.USER_OVERLAY not in place.able:
        make = partial(_rootless, program=find_program())

    def warn(text: str) -> None:
        job.reporter.emit(WarningRaised(text))

    return await trio.to_thread.run_sync(make, job, options, warn)


def _probe(store: Store, wanted: Isolation) -> Place:
    """Everything, unless the best is asked for and possible: then no more needs to be known."""
    best = Isolation.ROOTLESS if form() else Isolation.OVERLAY
    if wanted in (Isolation.AUTO, best):
        place = _try(store, NEEDS[best])
        if place.permits(best) and (not form() or is_inside(place)):
            return place
    return _try(store, ())


def _try(store: Store, only: tuple[Ability, ...]) -> Place:
    work = store.new_work("probe", "try")
    try:
        return probe(work / "try", only)
    finally:
        store.discard(work)


def is_inside(place: Place) -> bool:
    """Whether this is root of a user namespace, as the command line makes of an ordinary user."""
    return place.has_sys_admin and form() != ""


def _not_inside(place: Place) -> IsolationError:
    if place.uid == 0:
        return IsolationError(
            "--isolation rootless is for ordinary users, and this is root",
            hint="--isolation auto takes what is possible",
        )
    return no_way(place)


def _no_runtime(place: Place, runtime: str) -> IsolationError:
    way = Isolation.ROOTLESS if place.uid else Isolation.OVERLAY
    missing = place.missing(way)
    said = "; ".join(f"{need}: {text}" for need, text in missing.items())
    return IsolationError(
        f"--oci-runtime {runtime} is not possible here: a runtime needs mounts ({said})",
        hint=f"it needs {' and '.join(place.better(missing))}; see asyncbuild doctor",
    )


def _not_wanted() -> IsolationError:
    return IsolationError(
        "RUN is not executed with --isolation none", hint="--isolation auto takes what is possible"
    )
