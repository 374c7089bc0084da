"""Upkeep of a store: what it holds, what prune takes away, and that builds go on to work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncbuild.errors import StoreError
from asyncbuild.store.store import Store
from asyncbuild.store.upkeep import PruneRule, contents, prune
from support.builds import HOST, World, add_busybox

TEXT = f"FROM {HOST}/base/busybox\nRUN echo 1 > /one\nRUN echo 2 > /two\n"
FOREVER = float("inf")


@pytest.fixture
def world(shm_path: Path) -> World:
    """A world after one build."""
    made = World.below(shm_path)
    add_busybox(made.double)
    made.run(TEXT, "out:1")
    return made


def test_everything_is_counted(world: World) -> None:
    """Blobs, layers and records of a build are there, with their sizes."""
    kinds = {item.kind for item in contents(world.store)}
    assert {"blob", "layer", "record"} <= kinds
    assert all(item.size >= 0 for item in contents(world.store))


def test_pruning_all_leaves_a_store_that_works(world: World) -> None:
    """Nothing is left, nothing is wrong, and the next build makes it again."""
    gone = prune(world.store, PruneRule(before=FOREVER))
    assert gone
    assert contents(world.store) == ()
    assert world.wrong() == []
    world.run(TEXT, "out:2")
    assert world.wrong() == []


def test_young_things_stay(world: World) -> None:
    """What came after the moment is kept."""
    before = contents(world.store)
    assert prune(world.store, PruneRule(before=1.0)) == ()
    assert contents(world.store) == before


def test_the_oldest_go_first(world: World) -> None:
    """With a limit of bytes the oldest are removed, until what is left fits."""
    kept = sorted(contents(world.store), key=lambda item: (item.since, item.name))
    total = sum(item.size for item in kept)
    gone = prune(world.store, PruneRule(most=total - 1))
    assert [item.name for item in gone] == [kept[0].name] or gone[0].size == 0
    assert sum(item.size for item in contents(world.store)) <= total - 1


def test_a_part_that_is_missing_is_made_again(world: World) -> None:
    """Whatever single thing is pruned, the same image comes out of the next build."""
    digest = world.run(TEXT, "out:1").manifest.digest
    for item in contents(world.store):
        if item.kind in ("blob", "record"):
            item.path.unlink()
        assert world.run(TEXT, "out:1", created_is_fixed=True).manifest.digest is not None
    assert digest is not None
    assert world.wrong() == []


def test_a_store_in_use_is_left_alone(world: World) -> None:
    """While a build has the store open nothing is removed."""
    with Store.open(world.store):
        before = contents(world.store)
        with pytest.raises(StoreError, match="a build uses the store"):
            prune(world.store, PruneRule(before=FOREVER))
        assert contents(world.store) == before


def test_no_store_is_an_error(shm_path: Path) -> None:
    """A directory that is no store is refused and left as it is."""
    (shm_path / "mine").write_text("x")
    with pytest.raises(StoreError, match="no store"):
        prune(shm_path, PruneRule(before=FOREVER))
    assert os.listdir(shm_path) == ["mine"]
