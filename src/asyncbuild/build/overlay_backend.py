"""The overlay backend: each RUN in namespaces of its own, upon an overlay of its layers."""

from __future__ import annotations

from collections.abc import Callable

import trio

from asyncbuild.build.backend import Ended, RunOrder
from asyncbuild.build.futures import Ledger
from asyncbuild.build.sandboxes import Sandboxes
from asyncbuild.rootfs.cgroups import CannotLimit, Group, Limits
from asyncbuild.rootfs.isolation import Isolation
from asyncbuild.rootfs.sandbox import Helper, OnOutput, run_sandboxed


class OverlayBackend:
    """Runs commands in sandboxes that are started ahead; ``warn`` is told what has no effect here."""

    isolation = Isolation.OVERLAY
    shares_caches = True

    def __init__(self, nursery: trio.Nursery, ledger: Ledger, warn: Callable[[str], None]) -> None:
        self._sandboxes = Sandboxes(nursery, ledger)
        self._warn = warn

    def prepare(self) -> None:
        """Start a sandbox."""
        self._sandboxes.prepare()

    async def run(self, order: RunOrder, on_output: OnOutput) -> Ended:
        """Run the command within its limits; see `Backend`."""
        helper = await self._sandboxes.take()
        if order.more:
            self._sandboxes.prepare()
        group = self._limit(helper, order.limits)
        try:
            code = await run_sandboxed(order.spec, on_output, helper=helper)
            return Ended(code, group is not None and group.out_of_memory())
        finally:
            if group is not None:
                group.close()

    def _limit(self, helper: Helper, limits: Limits) -> Group | None:
        """Put limits upon a sandbox; where that is not possible, a warning says so once."""
        try:
            return self._sandboxes.limit(helper, limits)
        except CannotLimit as error:
            self._warn(f"--memory and --cpus have no effect here: {error.message}")
            return None

    async def aclose(self) -> None:
        """End the sandboxes that no one used."""
        await self._sandboxes.aclose()
