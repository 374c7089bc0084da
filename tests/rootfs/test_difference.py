"""Several trees as the one change set that they make together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.layers.changeset import ChangeSet, Entry, InlineSource, Kind
from asyncbuild.layers.paths import ancestors
from asyncbuild.rootfs.difference import difference
from asyncbuild.rootfs.view import ChangeSetTree, View


def file(path: str, text: str = "x") -> Entry:
    """A file of some text."""
    data = text.encode()
    return Entry(path, Kind.FILE, size=len(data), source=InlineSource(data))


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, Kind.DIRECTORY, mode)


def tree(*entries: Entry, gone: Sequence[str] = (), opaque: Sequence[str] = ()) -> ChangeSetTree:
    """A tree of a change set."""
    return ChangeSetTree(ChangeSet.of(entries, gone, opaque))


BASE = (directory("d"), file("d/a"), file("d/b"), directory("e"), file("e/f"), file("g"))

CASES = {
    "a file that came and went is nothing": (
        [tree(gone=["n"]), tree(file("n"))],
        [],
        [],
    ),
    "the later of two wins": ([tree(file("g", "3")), tree(file("g", "22"))], ["g"], []),
    "a removed file": ([tree(gone=["d/a"])], [], ["d/a"]),
    "a removed directory is one deletion": ([tree(gone=["d"])], [], ["d"]),
    "removed and made again: what is not there any more is deleted": (
        [tree(directory("d"), file("d/new")), tree(gone=["d"])],
        ["d/new"],
        ["d/a", "d/b"],
    ),
    "an opaque directory": ([tree(opaque=["d"])], [], ["d/a", "d/b"]),
    "a file where a directory was": ([tree(file("d"), gone=["d"])], ["d"], ["d"]),
    "a directory where a file was": (
        [tree(directory("g"), file("g/h"), gone=["g"])],
        ["g", "g/h"],
        ["g"],
    ),
    "another mode of a directory": ([tree(directory("e", 0o700))], ["e"], []),
    "an unchanged directory is no change": ([tree(directory("e"))], [], []),
}


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    """Each case's additions (but for directories that are as they were) and deletions."""
    trees, added, gone = CASES[name]
    below = View([tree(*BASE)])
    found = difference(trees, below)
    known = {entry for entry in BASE if entry.kind is Kind.DIRECTORY}
    assert [entry.path for entry in found.additions if entry.path and entry not in known] == added
    assert list(found.deletions) == gone


PATHS = ("a", "b", "a/x", "a/y", "b/x", "a/x/z")


@st.composite
def layers(draw: st.DrawFn) -> ChangeSet:
    """A change set whose additions have directories above them."""
    entries: dict[str, Entry] = {}
    for path in draw(st.lists(st.sampled_from(PATHS), max_size=4)):
        if any(entries.get(up, directory(up)).kind is Kind.FILE for up in ancestors(path)):
            continue
        if any(other.startswith(f"{path}/") for other in entries):
            continue
        for up in ancestors(path):
            entries.setdefault(up, directory(up))
        text = draw(st.sampled_from("12"))
        entries[path] = draw(st.sampled_from([file(path, text), directory(path)]))
    deletions = draw(st.lists(st.sampled_from(PATHS), max_size=2))
    held = [up for path in entries for up in ancestors(path)]
    gone = [path for path in deletions if path not in held and path not in entries]
    gone = [p for p in gone if not any(up in entries or up in gone for up in ancestors(p))]
    return ChangeSet.of(entries.values(), gone)


def shape(view: View) -> list[tuple[str, Kind, bytes | None]]:
    """Every path with its kind and content."""
    return [
        (entry.path, entry.kind, view.read(entry.path) if entry.kind is Kind.FILE else None)
        for entry in view.walk()
    ]


@given(st.lists(layers(), min_size=1, max_size=3), layers())
def test_one_layer_shows_what_many_did(changes: list[ChangeSet], base: ChangeSet) -> None:
    """The difference upon the base gives the same files as all of the trees."""
    below = View([ChangeSetTree(base)])
    trees = [ChangeSetTree(item) for item in changes]
    one = ChangeSetTree(difference(trees, below))
    assert shape(below.with_top(one)) == shape(below.with_top(*trees))
