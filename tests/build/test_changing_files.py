"""Files of a context that change while a build reads them: whatever comes of that build, no other gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncbuild.build.request import CachePlace
from asyncbuild.build.workers import WorkerPool
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.pack import PackedLayer
from asyncbuild.report.events import StepFinished, WarningRaised
from support.builds import HOST, Recorder, World, add_busybox

PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)
DOCKERFILE = f"""\
FROM {HOST}/base/busybox
RUN echo before > /before
COPY file other /data/
RUN cat /data/file > /seen
"""


class Meddlers(WorkerPool):
    """Workers; just before one of them reads files of the context, someone saves one anew."""

    def __init__(self, when: str, meddle: Callable[[], object]) -> None:
        super().__init__(2)
        self._when = when
        self._meddle = meddle
        self._meddled = trio.Event()

    async def pack(self, changes: ChangeSet, *more: Any) -> PackedLayer:
        """Pack a change set; that of the context is done when the file has been saved, and no sooner."""
        self._look("pack", changes)
        packed = await super().pack(changes, *more)
        if _is_read(changes):
            await self._meddled.wait()
        return packed

    async def materialise(self, changes: ChangeSet, destination: Path) -> UnpackedFacts:
        """Write a change set."""
        self._look("materialise", changes)
        return await super().materialise(changes, destination)

    def _look(self, what: str, changes: ChangeSet) -> None:
        if what == self._when and _is_read(changes):
            self._meddle()
            self._meddled.set()


def _is_read(changes: ChangeSet) -> bool:
    return "data/file" in [entry.path for entry in changes.additions]


def build(world: World, workers: WorkerPool | None = None, **more: Any) -> tuple[Digest, Recorder]:
    """Build it; times of files do not matter."""
    recorder = Recorder()
    request = replace(world.request(DOCKERFILE, "app:1"), clamp_times=True, **more)

    async def main() -> Digest:
        if workers is None:
            return (await world.build(request, recorder=recorder)).manifest.digest
        async with workers:
            result = await world.build(request, recorder=recorder, workers=workers)
        return result.manifest.digest

    return trio.run(main), recorder


def outcomes(recorder: Recorder) -> list[str]:
    """How the steps that make layers ended."""
    return [event.outcome.name for event in recorder.of(StepFinished)]


@pytest.mark.parametrize("manner", ["in place", "a new file"])
@pytest.mark.parametrize("when", ["pack", "materialise"])
def test_what_was_read_of_a_file_that_changed_is_not_kept(
    when: str, manner: str, shm_path: Path
) -> None:
    """The key is of the old bytes, what was read are new ones, as many: neither the store nor the cache in
    the registry has it, but both have the steps before.
    """
    world = World.below(shm_path)
    add_busybox(world.double)
    world.write({"file": "content", "other": "x"})
    right, _ = build(replace(world, store=shm_path / "alone"), use_cache=False)
    file = world.context / "file"

    def meddle() -> None:
        target = file if manner == "in place" else world.context / "fresh"
        target.write_text("CONTENT")
        target.rename(file)

    _, recorder = build(world, Meddlers(when, meddle), cache_to=(PLACE,), cache_patience=60.0)
    assert [event.text for event in recorder.of(WarningRaised)] == [
        f"{file} changed while the build read it: the step will not be cached"
    ]
    file.write_text("content")
    for store, cache in ((world.store, ()), (shm_path / "fresh", (PLACE,))):
        found, recorder = build(replace(world, store=store), cache_from=cache)
        assert found == right
        assert outcomes(recorder) == ["CACHED", "EXECUTED", "EXECUTED"]


def test_a_file_that_is_only_linked_is_the_same(shm_path: Path) -> None:
    """A name more changes what the kernel says of a file, but nothing that an image has."""
    world = World.below(shm_path)
    add_busybox(world.double)
    world.write({"file": "content", "other": "x"})

    def meddle() -> None:
        (shm_path / "link").hardlink_to(world.context / "file")

    first, recorder = build(world, Meddlers("pack", meddle))
    assert recorder.of(WarningRaised) == []
    again, recorder = build(world)
    assert again == first
    assert "EXECUTED" not in outcomes(recorder)
