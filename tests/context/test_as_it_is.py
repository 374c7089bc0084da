"""When a part of a context can be shown as it stands on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncbuild.context.as_it_is import AsItIs, as_it_is
from asyncbuild.context.directory import DirectoryContext
from asyncbuild.context.ignorefile import IgnoreFile

FILES = ("sub/a", "sub/deep/b", "other/c", "top")


def context(
    root: Path, ignore: str = "", owners: Mapping[str, int] | None = None
) -> DirectoryContext:
    """A context with `FILES`, some paths of it owned by others."""
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for name, owner in (owners or {}).items():
        os.chown(root / name, owner, owner)
    return DirectoryContext(root, IgnoreFile.parse(ignore))


@pytest.mark.parametrize(
    ("ignore", "path", "whole"),
    [
        ("", "", True),
        ("", "sub", True),
        ("", "top", True),
        ("other", "sub", True),
        ("other", "", False),
        ("**/b", "sub", False),
        ("**/b", "other", True),
        ("sub\n!sub/deep", "sub", False),
        ("sub\n!sub/deep", "sub/deep", True),
        ("top", "top", False),
        ("nothing-of-the-kind", "", True),
    ],
)
def test_ignored_paths(shm_path: Path, ignore: str, path: str, *, whole: bool) -> None:
    """Nothing below may be left out; what is left out elsewhere does not matter."""
    found = as_it_is(context(shm_path, ignore), path)
    assert found == (AsItIs(shm_path / path, (0, 0)) if whole else None)


@pytest.mark.parametrize(
    ("owners", "path", "expected"),
    [
        ({"other/c": 7}, "sub", (0, 0)),
        ({"sub/deep/b": 7}, "sub", None),
        ({"sub/deep/b": 7}, "sub/deep/b", (7, 7)),
        ({"sub": 7, "sub/a": 7, "sub/deep": 7, "sub/deep/b": 7}, "sub", (7, 7)),
        ({"sub": 7, "sub/a": 7, "sub/deep": 7, "sub/deep/b": 7}, "", None),
    ],
)
def test_owners(
    shm_path: Path, owners: Mapping[str, int], path: str, expected: tuple[int, int] | None
) -> None:
    """One owner is told, several need a copy."""
    found = as_it_is(context(shm_path, owners=owners), path)
    assert (None if found is None else found.owner) == expected


def test_a_context_with_nothing_in_it() -> None:
    """It stands nowhere."""
    assert as_it_is(DirectoryContext(None), "") is None


def test_links_are_not_followed(shm_path: Path) -> None:
    """A link to a stranger's file, or out of the context, is a link of its owner."""
    made = context(shm_path)
    (shm_path / "sub/link").symlink_to("/etc")
    assert as_it_is(made, "sub") == AsItIs(shm_path / "sub", (0, 0))
