"""A build that is cancelled leaves nothing: at every scheduling step of a small one, and of one with a RUN."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from asyncbuild.build.futures import Ledger
from asyncbuild.build.request import BuildRequest
from support.builds import HOST, Belongings, World, add_busybox, add_image, manifest_of
from support.images import Image, Layer, directory, text

FILES = f"""\
FROM {HOST}/base/tiny AS build
WORKDIR /work
COPY hello.txt .
COPY hello.txt loud.txt
FROM {HOST}/base/tiny
WORKDIR /app
COPY hello.txt .
COPY --from=build /work/loud.txt .
CMD ["cat", "loud.txt"]
"""
RUNS = f"""\
FROM {HOST}/base/busybox AS build
WORKDIR /work
COPY hello.txt .
RUN tr a-z A-Z < hello.txt > loud.txt
FROM {HOST}/base/busybox
WORKDIR /app
COPY --from=build /work/loud.txt .
RUN cat loud.txt > louder.txt
"""
TINY = Image([Layer.of(directory("etc"), text("etc/passwd", "root:x:0:0::/:/bin/sh\n"))])


@dataclass(slots=True, eq=False)
class CancelAt(trio.abc.Instrument):
    """Counts the steps that trio lets tasks take, and cancels ``scope`` before step ``number``."""

    number: int | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    steps: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """One more step."""
        self.steps += 1
        if self.steps == self.number:
            self.scope.cancel()


def run(world: World, request: BuildRequest, number: int | None) -> tuple[CancelAt, Ledger, bool]:
    """One build that is cancelled at a step (None: never); whether it came to its end."""
    instrument, ledger = CancelAt(number), Ledger()

    async def main() -> bool:
        with instrument.scope:
            await world.build(request, ledger=ledger)
            return True
        return False

    finished = trio.run(main, instruments=[instrument])
    return instrument, ledger, finished


def check_every(world: World, request: BuildRequest, numbers: range, *, complete_every: int) -> int:
    """Cancel builds, each with a new store, at the steps ``numbers`` until one comes to its end before.

    Returns how many were cancelled. ``complete_every`` tells how often the store that a cancelled build
    left is used by a complete one afterwards, which must make the same image (but for what RUNs make:
    that has the time of day in it).
    """
    assert run(world, request, None)[2]
    wanted = manifest_of(world.double, "app", "1")
    exactly = b"RUN" not in request.dockerfile
    before = Belongings.now()
    for count, number in enumerate(numbers):
        world = World(world.double, world.store.with_name(f"store-{number}"), world.context)
        world.double.manifests.pop("app", None)
        world.double.uploads.clear()
        instrument, ledger, finished = run(world, _in(world, request), number)
        where = f"cancelled at step {number}"
        assert Belongings.now().more_than(before) == [], where
        assert ledger.unsettled == [], where
        assert world.wrong() == [], where
        if finished:
            assert instrument.steps < number or not instrument.scope.cancelled_caught
            return count
        if "app" in world.double.manifests:
            # all that a build may do after its manifest went is to close sessions it did not use
            methods = [entry.method for entry in world.double.log]
            tail = methods[len(methods) - methods[::-1].index("PUT") :]
            assert set(tail) <= {"DELETE"}, where
        if count % complete_every == 0:
            assert run(world, _in(world, request), None)[2], where
            assert world.wrong() == [], where
            found = manifest_of(world.double, "app", "1")
            assert len(found["layers"]) == len(wanted["layers"]), where
            assert not exactly or found == wanted, where
    raise AssertionError(f"no build came to its end within {numbers.stop} steps")


def _in(world: World, request: BuildRequest) -> BuildRequest:
    return world.request(request.dockerfile.decode(), "app:1")


@pytest.fixture
def world(shm_path: Path) -> World:
    """A double with both bases, and a context with one file."""
    world = World.below(shm_path)
    add_busybox(world.double)
    add_image(world.double, "base/tiny", TINY)
    world.write({"hello.txt": "hello\n"})
    return world


def test_every_step_of_a_build_without_run(world: World) -> None:
    """At whichever step it is cancelled: no child, no descriptor, no half of a blob, no open promise."""
    request = world.request(FILES, "app:1")
    assert check_every(world, request, range(1, 10_000), complete_every=10) > 100


def test_steps_of_a_build_with_runs(world: World) -> None:
    """Likewise with sandboxes and mounts; every seventh step, for each costs a start of processes."""
    request = world.request(RUNS, "app:1")
    assert check_every(world, request, range(3, 10_000, 7), complete_every=12) > 25


def test_runs_on_a_store_that_has_the_base(world: World) -> None:
    """The same where the RUN comes early, because the base is unpacked already."""
    request = world.request(RUNS, "app:1", use_cache=False)
    assert run(world, request, None)[2]
    before = Belongings.now()
    for number in range(1, 10_000, 5):
        _, ledger, finished = run(world, request, number)
        assert Belongings.now().more_than(before) == [], number
        assert ledger.unsettled == []
        assert world.wrong() == []
        if finished:
            assert number > 50
            return
