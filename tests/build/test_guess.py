"""Guesses about a base on its way: used while it is missing, checked when it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncbuild.build.guess import COMMON, GuessedBase, Unknown
from asyncbuild.rootfs.view import View
from support.builds import HOST, World, add_busybox
from support.images import Layer, directory, symlink

COPY = f"FROM {HOST}/base/busybox\nWORKDIR /app/deep\nCOPY file /app/\nRUN true\n"


def world(path: Path, *more: Layer) -> World:
    """A world whose base has ``more`` layers on top of busybox."""
    made = World.below(path)
    add_busybox(made.double, "base/busybox", *more)
    made.write({"file": "content"})
    return made


def test_a_right_guess_changes_nothing(shm_path: Path) -> None:
    """With the base on its way and with the base in the store the same image comes out."""
    where = world(shm_path)
    first = where.run(COPY, "out:1")
    again = where.run(COPY, "out:2", use_cache=False)
    assert first.manifest.layers[:3] == again.manifest.layers[:3]
    assert set(where.entries(first, 1)) == {"app", "app/deep"}


def test_a_directory_of_the_base_keeps_its_attributes(shm_path: Path) -> None:
    """A base that has the directory after all: its mode and owner are in the layers."""
    where = world(shm_path, Layer.of(directory("app", 0o700, uid=7, gid=8)))
    app = where.entries(where.run(COPY, "out:1"), 3)["app"]
    assert (app.mode, app.uid, app.gid) == (0o700, 7, 8)


def test_a_link_of_the_base_is_followed(shm_path: Path) -> None:
    """A base that has a link there: files go where it leads."""
    where = world(shm_path, Layer.of(directory("real"), symlink("app", "real")))
    assert "real/file" in where.entries(where.run(COPY, "out:1"), 3)


def test_a_stage_without_run_is_checked_too(shm_path: Path) -> None:
    """The check comes before the stage is done, whether it runs anything or not."""
    where = world(shm_path, Layer.of(directory("real"), symlink("app", "real")))
    result = where.run(COPY.replace("RUN true\n", ""), "out:1")
    assert "real/file" in where.entries(result, 3)


@pytest.mark.parametrize("name", sorted(COMMON))
def test_common_names_are_not_guessed(name: str) -> None:
    """Whatever a base may well have is waited for."""
    base = GuessedBase()
    with pytest.raises(Unknown):
        View([base]).lookup(f"{name}/x")
    assert base.names == set()


def test_what_was_assumed_is_known() -> None:
    """Each first name that was asked for is to be checked; the root's names cannot be listed."""
    base = GuessedBase()
    view = View([base])
    assert view.lookup("app/x/y") is None
    assert view.resolve("srv2/../data") == "data"
    assert base.names >= {"app"}
    with pytest.raises(Unknown):
        view.names("")
