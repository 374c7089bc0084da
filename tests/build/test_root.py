"""Roots: what is asked for, when, and where errors are said."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from asyncbuild.build.futures import Future, Promise, kept
from asyncbuild.build.root import Addition, BaseFiles, Directories, Root
from asyncbuild.errors import IntegrityError, SourceLocation
from asyncbuild.rootfs.view import DirectoryTree

AT = SourceLocation("Dockerfile", 1, 1, excerpt=("FROM base",))


def directory(path: Path, name: str, content: str) -> Path:
    """A directory with one file ``name``, and ``own`` named after the directory."""
    path.mkdir()
    (path / name).write_text(content)
    (path / path.name).write_text("")
    return path


def counted(future: Future[Directories]) -> tuple[Callable[[], Future[Directories]], list[int]]:
    """A base that notes how often it is asked for."""
    asked: list[int] = []

    def base() -> Future[Directories]:
        asked.append(1)
        return future

    return base, asked


def test_additions_hide_what_is_below(shm_path: Path) -> None:
    """The topmost addition wins; lower directories come topmost first."""
    below = directory(shm_path / "below", "file", "old")
    one = directory(shm_path / "one", "file", "newer")
    two = directory(shm_path / "two", "file", "newest")
    root = Root(BaseFiles(lambda: kept("base", (below,))))
    for path in (one, two):
        root = root.with_addition(Addition(DirectoryTree(path), partial(kept, "addition", path)))

    async def main() -> None:
        view = await root.view()
        assert view.read("file") == b"newest"
        for name in ("below", "one", "two"):
            assert view.lookup(name) is not None
        assert await root.lower_directories() == (two, one, below)
        assert (await root.without_additions().view()).read("file") == b"old"

    trio.run(main)


def test_nothing_is_asked_for_before_it_is_needed(shm_path: Path) -> None:
    """To put something on top needs no base."""
    base, asked = counted(kept("base", ()))
    root = Root(BaseFiles(base)).with_addition(
        Addition(DirectoryTree(shm_path), lambda: kept("", shm_path))
    )
    assert asked == []
    trio.run(root.view)
    assert asked


def test_errors_of_the_base_are_said_at_its_from() -> None:
    """Whoever looks, the FROM is named; an error that has its place keeps it."""
    failed: Promise[Directories] = Promise("base")
    failed.fail(IntegrityError("other bytes"))
    root = Root(BaseFiles(lambda: failed), named_at=AT)
    for look in (root.view, root.lower_directories):
        with pytest.raises(IntegrityError) as caught:
            trio.run(look)
        assert caught.value.location is AT


def test_scratch_is_empty() -> None:
    """A root without a base and additions."""
    assert trio.run(Root().lower_directories) == ()
    assert trio.run(Root().view).lookup("anything") is None
