"""Sandboxes that are started before what they will run is known: half of what a RUN costs by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from asyncbuild.build.futures import Future, Ledger
from asyncbuild.rootfs.cgroups import CannotLimit, Group, Limits
from asyncbuild.rootfs.sandbox import Helper, start_helper


class Sandboxes:
    """Started sandbox processes, each good for one RUN. `aclose` ends those that no one took."""

    def __init__(
        self,
        nursery: trio.Nursery,
        ledger: Ledger,
        start: Callable[[], Awaitable[Helper]] = start_helper,
    ) -> None:
        """``start`` starts a process of the right kind."""
        self._nursery = nursery
        self._begin = start
        self._ledger = ledger
        self._waiting: list[Future[Helper]] = []
        self._unused: set[Helper] = set()
        self._unlimited = False

    def prepare(self) -> None:
        """Start one, unless one is waiting."""
        if not self._waiting:
            self._waiting.append(self._ledger.spawn(self._nursery, "start a sandbox", self._start))

    async def take(self) -> Helper:
        """One that is started; it is the caller's to close (`run_sandboxed` does)."""
        if not self._waiting:
            self.prepare()
        helper = await self._waiting.pop().wait()
        self._unused.discard(helper)
        return helper

    def limit(self, helper: Helper, limits: Limits) -> Group | None:
        """Put limits upon what ``helper`` will run; the group is the caller's to close when it has run.

        None if nothing limits it. Raises `CannotLimit` the first time that this is not possible here.
        """
        if not limits or self._unlimited:
            return None
        try:
            group = Group.make(limits)
            try:
                group.add(helper.pid)
            except OSError as error:
                group.close()
                raise CannotLimit(f"{error.strerror}: {error.filename}") from error
        except CannotLimit:
            self._unlimited = True
            raise
        return group

    def limited(self, helper: Helper, limits: Limits, warn: Callable[[str], None]) -> Group | None:
        """As `limit`; where it is not possible ``warn`` is told so once."""
        try:
            return self.limit(helper, limits)
        except CannotLimit as error:
            warn(f"--memory and --cpus have no effect here: {error.message}")
            return None

    async def aclose(self) -> None:
        """End the processes that were not taken; also while the task is being cancelled.

        The nursery has ended by then, or one that is just being started would be missed.
        """
        for helper in list(self._unused):
            await helper.aclose()
        self._unused.clear()

    async def _start(self) -> Helper:
        helper = await self._begin()
        self._unused.add(helper)
        return helper
