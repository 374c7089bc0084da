"""The in-place backend: RUN in ``/`` itself, for root in a container that permits not even chroot.

There is one root, so one stage has it at a time (`Session.turn`) and its RUNs go on where the last one
ended; another stage begins with an emptied ``/``. The layers of all of them are in the store, so COPY
--from and everything else is as with the other backends.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from asyncbuild.build.backend import Ended, RunOrder
from asyncbuild.build.chroot_backend import check_without_mounts
from asyncbuild.build.job import Job
from asyncbuild.build.run_options import RunOptions
from asyncbuild.build.sandboxes import Sandboxes
from asyncbuild.errors import IsolationError
from asyncbuild.rootfs import refuge
from asyncbuild.rootfs.isolation import Isolation
from asyncbuild.rootfs.ownroot import OwnRoot, restore
from asyncbuild.rootfs.runspec import host_lines
from asyncbuild.rootfs.sandbox import OnOutput, OwnPlace, start_inplace_helper


class InPlaceBackend:
    """Knows which layers ``/`` shows; ``warn`` is told what has no effect here."""

    isolation = Isolation.INPLACE
    shares_caches = False

    def __init__(self, job: Job, options: RunOptions, warn: Callable[[str], None]) -> None:
        """Raises `IsolationError` unless this process runs from a copy of the program."""
        if not refuge.is_entered() or options.own_root is None:
            raise IsolationError(
                "an in-place build replaces the files of this program, which does not run from a copy",
                hint="the commands build and kaniko make one when they are given --isolation inplace",
            )
        self._own: OwnRoot = options.own_root
        self._sandboxes = Sandboxes(job.nursery, job.ledger, start_inplace_helper)
        self._warn = warn
        self._told: set[str] = set()
        self._alone = trio.Lock()
        self._shown: tuple[Path, ...] = ()

    def prepare(self) -> None:
        """Start the process of the next RUN."""
        self._sandboxes.prepare()

    async def run(self, order: RunOrder, on_output: OnOutput) -> Ended:
        """Run the command in ``/``; see `Backend`."""
        check_without_mounts(order.spec, self._tell)
        async with self._alone:
            return await self._run(order, on_output)

    async def _run(self, order: RunOrder, on_output: OnOutput) -> Ended:
        spec = order.spec
        helper = await self._sandboxes.take()
        if order.more:
            self._sandboxes.prepare()
        group = self._sandboxes.limited(helper, order.limits, self._warn)
        goes_on = bool(self._shown) and spec.lower_directories[-len(self._shown) :] == self._shown
        above = spec.lower_directories[: -len(self._shown)] if goes_on else ()
        self._shown = ()
        try:
            hosts = host_lines(spec.extra_hosts)
            place = OwnPlace(self._own, tuple(reversed(above)), not goes_on, hosts)
            code = await helper.run(spec, on_output, place)
            if code == 0:
                self._shown = (spec.upper, *spec.lower_directories)
            return Ended(code, group is not None and group.out_of_memory())
        finally:
            await helper.aclose()
            if group is not None:
                group.close()

    async def aclose(self) -> None:
        """End processes that no one used, and put the container back as it was if that is asked for."""
        await self._sandboxes.aclose()
        if self._own.cleanup:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(restore, self._own)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._warn(text)
