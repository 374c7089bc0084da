"""Glimpses: what a base on its way is likely to have at a name, told by the beginnings of its layers.

A cold base takes seconds to come and to be unpacked, but what a COPY must know of it is often in the first
kilobytes of each layer: the directory at the root below which it puts its files (`layers.beginning`). The
blobs are on their way for the stage anyway; only their first bytes are inflated twice. The small ones begin
last, so one is not waited for that a RUN has made which says nothing of the name, as the history tells.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

import trio

from asyncbuild.build.futures import Future
from asyncbuild.build.guess import SELDOM_CHANGED
from asyncbuild.build.job import Job
from asyncbuild.build.resolving import BaseImage
from asyncbuild.build.supply import Supply
from asyncbuild.image.config import ImageConfig
from asyncbuild.image.digest import Digest
from asyncbuild.layers.beginning import MOST_BYTES, read_beginning
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.rootfs.glimpsed import BegunTree, LooseTree
from asyncbuild.rootfs.trees import ChangeSetTree, Tree

_FIRST_LOOK: Final = 64 << 10

Glimpse = tuple[Tree, ...]
"""What is known of each layer, topmost first."""


class Glimpses:
    """Those of one build."""

    def __init__(self, job: Job, supply: Supply) -> None:
        self._job = job
        self._supply = supply
        self._begun: dict[tuple[Digest, str], Future[Glimpse | None]] = {}
        self._one = trio.CapacityLimiter(1)

    def of(self, image: BaseImage, name: str) -> Future[Glimpse | None]:
        """What the image, whose layers are being fetched, is likely to have at and below ``name``, which
        stands at its root; None if the beginnings do not tell.
        """
        key = (image.manifest.digest, name)
        if key not in self._begun:
            label = f"glimpse of /{name} in {image.reference}"
            self._begun[key] = self._job.ledger.spawn(
                self._job.nursery, label, self._look, image, name
            )
        return self._begun[key]

    async def _look(self, image: BaseImage, name: str) -> Glimpse | None:
        found: list[Tree | None] = [None] * len(image.layers)

        async def look(position: int) -> None:
            with suppress(Exception):  # whoever needs the layer is told
                found[position] = await self._look_into(image, position, name)
            if found[position] is None:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for position in range(len(image.layers)):
                nursery.start_soon(look, position)
        trees = [tree for tree in reversed(found) if tree is not None]
        return tuple(trees) if len(trees) == len(found) else None

    async def _look_into(self, image: BaseImage, position: int, name: str) -> Tree | None:
        descriptor, diff_id = image.layers[position]
        present = await trio.to_thread.run_sync(self._job.store.layer, diff_id)
        if present is not None:
            return LooseTree(str(present.path), present.facts)
        if is_silent(image.config, position, name):
            return ChangeSetTree(ChangeSet())
        spool = await self._supply.blob(descriptor, image.reference).wait()
        wanted = _FIRST_LOOK
        while True:
            await spool.wait_size(min(wanted, descriptor.size) - 1)
            size = min(spool.size, MOST_BYTES)
            whole = spool.complete and size == spool.size
            read = partial(read_beginning, spool.first(size), name, whole=whole)
            begun = await trio.to_thread.run_sync(read, limiter=self._one)
            if begun.tells(name):
                return BegunTree(begun)
            if whole or size == MOST_BYTES:
                return None
            wanted = min(2 * size, MOST_BYTES)


def is_silent(config: ImageConfig, position: int, name: str) -> bool:
    """Whether the layer at ``position``, counted from the bottom, was made by a RUN that is unlikely to
    have changed anything at ``name``. Docker's and buildah's lines have the shell's command, and ``#(nop)``
    in those of other steps; BuildKit's begin with the instruction.
    """
    lines = [entry.created_by for entry in config.history if not entry.empty_layer]
    if name not in SELDOM_CHANGED or len(lines) != len(config.diff_ids):
        return False
    line = lines[position]
    is_run = line.startswith("RUN ") or ("/bin/sh -c " in line and "#(nop)" not in line)
    return is_run and name not in line
