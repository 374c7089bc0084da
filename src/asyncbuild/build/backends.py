"""The backend of a build: chosen when a RUN is near, by trying what this place permits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import trio

from asyncbuild.build.backend import Backend
from asyncbuild.build.chroot_backend import ChrootBackend
from asyncbuild.build.futures import Future
from asyncbuild.build.inplace_backend import InPlaceBackend
from asyncbuild.build.job import Job
from asyncbuild.build.overlay_backend import OverlayBackend
from asyncbuild.build.run_options import RunOptions
from asyncbuild.errors import AsyncbuildError, IsolationError
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


class Backends:
    """Finds the backend once, when it is first asked for; a build without RUN never asks."""

    def __init__(self, job: Job, options: RunOptions) -> None:
        self._job = job
        self._options = options
        self._wanted = options.isolation
        self._found: Future[Backend] | None = None

    def prepare(self) -> None:
        """A RUN is near: choose a backend, and let it start what it can."""
        if self._found is None or self._found.done:
            self._job.nursery.start_soon(self._prepare)

    async def chosen(self) -> Backend:
        """The backend. Raises `IsolationError` if what was asked for is not possible, or nothing is."""
        if self._found is None:
            job = self._job
            self._found = job.ledger.spawn(job.nursery, "choose a backend", self._choose)
        return await self._found.wait()

    async def aclose(self) -> None:
        """Close the backend if one was chosen; the nursery has ended by then."""
        if self._found is not None and self._found.done and not self._found.failed:
            await self._found.value_nowait().aclose()

    async def _prepare(self) -> None:
        """Speculative: what goes wrong is raised where the backend is needed."""
        with contextlib.suppress(AsyncbuildError):
            (await self.chosen()).prepare()

    async def _choose(self) -> Backend:
        place = await trio.to_thread.run_sync(self._probe)
        if self._wanted is Isolation.ROOTLESS and not is_inside(place):
            raise _not_inside(place)
        ways = [way for way in MAKERS if way is not Isolation.ROOTLESS or is_inside(place)]
        isolation = choose(place, self._wanted, (*ways, Isolation.NONE))
        if isolation is Isolation.NONE:
            raise no_way(place) if self._wanted is Isolation.AUTO else _not_wanted()
        if self._options.oci_runtime and isolation not in WITH_MOUNTS:
            raise _no_runtime(place, self._options.oci_runtime)
        make = MAKERS[isolation]
        if isolation is Isolation.ROOTLESS and Ability.USER_OVERLAY not in place.able:
            make = partial(_rootless, program=find_program())
        return await trio.to_thread.run_sync(make, self._job, self._options, self._warn)

    def _probe(self) -> Place:
        """Everything, unless the best is asked for and possible: then no more needs to be known."""
        best = Isolation.ROOTLESS if form() else Isolation.OVERLAY
        if self._wanted in (Isolation.AUTO, best):
            place = self._try(NEEDS[best])
            if place.permits(best) and (not form() or is_inside(place)):
                return place
        return self._try(())

    def _try(self, only: tuple[Ability, ...]) -> Place:
        store = self._job.store
        work = store.new_work("probe", "try")
        try:
            return probe(work / "try", only)
        finally:
            store.discard(work)

    def _warn(self, text: str) -> None:
        self._job.reporter.emit(WarningRaised(text))


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
