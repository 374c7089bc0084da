"""How WORKDIR, COPY and ADD make paths absolute."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.paths import absolute_destination, absolute_workdir


@pytest.mark.parametrize(
    ("current", "path", "expected"),
    [
        ("/", "a", "/a"),
        ("", "a", "/a"),
        ("/a", "b/../c", "/a/c"),
        ("/a", "../..", "/"),
        ("/a", "/b", "/b"),
        ("/a", "/b/../c/", "/b/../c/"),
        ("rel", "x", "/rel/x"),
        ("/a", "", "/a"),
        ("/a/", "b/", "/a/b"),
    ],
)
def test_workdir(current: str, path: str, expected: str) -> None:
    """A relative path is joined and cleaned, an absolute one kept as it is."""
    assert absolute_workdir(current, path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("b", "/w/b"),
        ("b/", "/w/b/"),
        (".", "/w/"),
        ("", "/w/"),
        ("./", "/w/"),
        ("b/.", "/w/b/."),
        ("/", "/"),
        ("/x/", "/x/"),
        ("/x/.", "/x/."),
        ("..", "/"),
        ("../", "/"),
    ],
)
def test_destination(path: str, expected: str) -> None:
    """What is written as a directory stays one."""
    assert absolute_destination("/w", path) == expected
