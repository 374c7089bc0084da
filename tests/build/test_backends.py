"""Which backend a build takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncbuild.build.run_options import RunOptions
from asyncbuild.errors import IsolationError
from asyncbuild.rootfs.isolation import Isolation
from support.builds import World, add_busybox

DOCKERFILE = "FROM registry.example/base/busybox\nCOPY file /\n"


@pytest.fixture
def world(shm_path: Path) -> World:
    """A world with a base and one file."""
    world = World.below(shm_path)
    add_busybox(world.double)
    world.write({"file": "text"})
    return world


def test_without_run_nothing_is_needed(world: World) -> None:
    """COPY and metadata never ask what the place permits."""
    world.run(DOCKERFILE, "app", run=RunOptions(isolation=Isolation.NONE))
    assert world.wrong() == []


def test_a_run_without_isolation_is_refused_where_it_stands(world: World) -> None:
    """The error names the line."""
    with pytest.raises(IsolationError) as caught:
        world.run(f"{DOCKERFILE}RUN true\n", "app", run=RunOptions(isolation=Isolation.NONE))
    assert caught.value.location is not None
    assert caught.value.location.line == 3
    assert world.wrong() == []
