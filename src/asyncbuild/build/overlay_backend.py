"""The overlay backend: each RUN in namespaces of its own, upon an overlay of its layers."""

from __future__ import annotations

from collections.abc import Callable

import trio

from asyncbuild.build.backend import Ended, RunOrder
from asyncbuild.build.futures import Ledger
from asyncbuild.build.sandboxes import Sandboxes
from asyncbuild.rootfs.isolation import Isolation
from asyncbuild.rootfs.sandbox import OnOutput, RuntimePlace, ServedPlace, run_sandboxed


class OverlayBackend:
    """Runs commands in sandboxes that are started ahead; ``warn`` is told what has no effect here."""

    shares_caches = True

    def __init__(
        self,
        nursery: trio.Nursery,
        ledger: Ledger,
        warn: Callable[[str], None],
        isolation: Isolation = Isolation.OVERLAY,
        place: ServedPlace | RuntimePlace | None = None,
    ) -> None:
        """``isolation`` is ROOTLESS where this process is root of a user namespace; ``place`` where the
        kernel mounts no overlay for it, or an OCI runtime executes RUN.
        """
        self.isolation = isolation
        self._place = place
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
        group = self._sandboxes.limited(helper, order.limits, self._warn)
        try:
            code = await run_sandboxed(order.spec, on_output, helper=helper, place=self._place)
            return Ended(code, group is not None and group.out_of_memory())
        finally:
            if group is not None:
                group.close()

    async def aclose(self) -> None:
        """End the sandboxes that no one used."""
        await self._sandboxes.aclose()
