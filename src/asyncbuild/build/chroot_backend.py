"""The chroot backend: RUN in plain directories, for root in a place that permits no mounts (the usual pod).

The layers below a RUN are copied into a directory (its tree). The stage's next RUN goes on there: what COPY
added in between is applied to it. A tree serves one RUN at a time; another that comes upon the same layers
makes one of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from asyncbuild.build.backend import Ended, RunOrder
from asyncbuild.build.job import Job
from asyncbuild.build.run_options import RunOptions
from asyncbuild.build.sandboxes import Sandboxes
from asyncbuild.errors import IsolationError
from asyncbuild.rootfs.isolation import Isolation
from asyncbuild.rootfs.runspec import DEFAULT_SHM_SIZE, RunSpec, TmpfsMount
from asyncbuild.rootfs.sandbox import OnOutput, PlainPlace, start_chroot_helper

_TREE = "tree"


class ChrootBackend:
    """Keeps a tree for each stage between its RUNs; ``warn`` is told what has no effect here."""

    isolation = Isolation.CHROOT
    shares_caches = False

    def __init__(self, job: Job, _options: RunOptions, warn: Callable[[str], None]) -> None:
        self._store = job.store
        self._sandboxes = Sandboxes(job.nursery, job.ledger, start_chroot_helper)
        self._warn = warn
        self._told: set[str] = set()
        self._kept: dict[tuple[Path, ...], Path] = {}

    def prepare(self) -> None:
        """Start the process of the next RUN."""
        self._sandboxes.prepare()

    async def run(self, order: RunOrder, on_output: OnOutput) -> Ended:
        """Run the command in the tree of its layers; see `Backend`."""
        check_without_mounts(order.spec, self._tell)
        helper = await self._sandboxes.take()
        if order.more:
            self._sandboxes.prepare()
        group = self._sandboxes.limited(helper, order.limits, self._warn)
        work, known = await self._take(order.spec.lower_directories)
        keep = False
        try:
            fresh = not known
            above = order.spec.lower_directories[: -len(known)] if known else ()
            place = PlainPlace(work / _TREE, tuple(reversed(above)), fresh, order.more)
            code = await helper.run(order.spec, on_output, place)
            keep = code == 0 and order.more
            return Ended(code, group is not None and group.out_of_memory())
        finally:
            await helper.aclose()
            if group is not None:
                group.close()
            if keep:
                self._kept[order.spec.upper, *order.spec.lower_directories] = work
            else:
                self._store.discard(work)

    async def aclose(self) -> None:
        """End processes that no one used, and give up the trees."""
        await self._sandboxes.aclose()
        for work in self._kept.values():
            self._store.discard(work)
        self._kept.clear()

    async def _take(self, lowers: tuple[Path, ...]) -> tuple[Path, tuple[Path, ...]]:
        """A work directory with a tree, and the layers that it shows: the nearest below, or none."""
        for count in range(len(lowers)):
            known = lowers[count:]
            if known in self._kept:
                return self._kept.pop(known), known
        return await trio.to_thread.run_sync(self._store.new_work, "root", _TREE), ()

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._warn(text)


def check_without_mounts(spec: RunSpec, tell: Callable[[str], None]) -> None:
    """What cannot be had without mounts is refused, or told."""
    if spec.privileged:
        raise IsolationError(
            "RUN --security=insecure needs CAP_SYS_ADMIN and mounts",
            hint="--isolation overlay has both where they are permitted",
        )
    if any(isinstance(mount, TmpfsMount) and mount.size for mount in spec.mounts):
        tell("--mount=type=tmpfs: size has no effect without mounts")
    if spec.shm_size != DEFAULT_SHM_SIZE:
        tell("--shm-size has no effect without mounts")
