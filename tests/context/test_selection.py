"""``--exclude`` and ``--parents``: tables, and properties against a slow and simple selection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.context.selection import Selection
from asyncbuild.dockerfile.ignore import IgnorePatterns
from asyncbuild.errors import DockerfileError, SourceNotFound
from asyncbuild.layers.changeset import ChangeSet, Entry, InlineSource, Kind
from asyncbuild.rootfs.view import ChangeSetTree, View


def tree(*paths: str) -> View:
    """Files at ``paths``; one that ends in a slash is a directory; ``a->b`` a link, ``a=b`` a hardlink."""
    entries: dict[str, Entry] = {}
    for text in paths:
        path, arrow, target = text.partition("->")
        hard, equals, name = text.partition("=")
        parts = (hard if equals else path).strip("/").split("/")
        for count in range(1, len(parts)):
            up = "/".join(parts[:count])
            entries.setdefault(up, Entry(up, Kind.DIRECTORY, 0o755))
        where = "/".join(parts)
        if arrow:
            entries[where] = Entry(where, Kind.SYMLINK, link=target)
        elif equals:
            entries[where] = Entry(where, Kind.HARDLINK, link=name)
        elif text.endswith("/"):
            entries[where] = Entry(where, Kind.DIRECTORY, 0o755)
        else:
            data = where.encode()
            entries[where] = Entry(where, Kind.FILE, size=len(data), source=InlineSource(data))
    return View([ChangeSetTree(ChangeSet.of(entries.values()))])


FILES = tree(
    "d/a.c", "d/a.o", "d/sub/b.c", "d/sub/b.o", "d/keep/", "x.o", "y.c", "l->d", "d/z->a.c"
)


def chosen(selection: Selection, pattern: str, files: View = FILES) -> list[str]:
    """The paths that are selected, with a mark on those that are only on the way."""
    return [
        f"({entry.path})" if entry.path in source.passing else entry.path
        for source in selection.find(files, pattern)
        for entry in source.entries
    ]


@pytest.mark.parametrize(
    ("excludes", "pattern", "expected"),
    [
        (("*.o",), "d", "d d/a.c d/keep d/sub d/sub/b.c d/sub/b.o d/z"),
        (("**/*.o",), "d", "d d/a.c d/keep d/sub d/sub/b.c d/z"),
        (("sub",), "d", "d d/a.c d/a.o d/keep d/z"),
        (("sub", "!sub/b.c"), "d", "d d/a.c d/a.o d/keep (d/sub) d/sub/b.c d/z"),
        (("*",), "d", "d"),
        (("*.o",), "*.?", "y.c"),
        (("x.o",), "x.o", ""),
        (("d",), "d", "d d/a.c d/a.o d/keep d/sub d/sub/b.c d/sub/b.o d/z"),
        (("/a.c",), "d", "d d/a.c d/a.o d/keep d/sub d/sub/b.c d/sub/b.o d/z"),
    ],
)
def test_excludes(excludes: tuple[str, ...], pattern: str, expected: str) -> None:
    """Patterns are seen from the source directory; a file that is a source goes by its name."""
    assert " ".join(chosen(Selection(excludes), pattern)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/a.c", " (d) d/a.c"),
        ("/d/sub/", " (d) d/sub d/sub/b.c d/sub/b.o"),
        ("d/./sub", "d d/sub d/sub/b.c d/sub/b.o"),
        ("d/**/*.c", " (d) d/a.c (d/sub) d/sub/b.c"),
        ("./d/./*", "d d/a.c d/a.o d/keep d/sub d/sub/b.c d/sub/b.o d/z"),
        ("d/nothing*", ""),
        ("l/./a.c", "d d/a.c"),
        ("*/./a.c", "d d/a.c d d/a.c"),
        ("../d/a.c", " (d) d/a.c"),
    ],
)
def test_parents(pattern: str, expected: str) -> None:
    """What stands behind the pivot is kept; the pivot is a directory, through a link too."""
    assert " ".join(chosen(Selection(parents=True), pattern)) == expected


def test_parents_of_everything() -> None:
    """``.`` is the whole tree: ours, BuildKit copies nothing."""
    assert chosen(Selection(parents=True), ".") == [entry.path for entry in FILES.walk()]


@pytest.mark.parametrize("pattern", ["d/nothing", "nothing/./a", "l/a.c", "x.o/y"])
def test_parents_that_are_missing(pattern: str) -> None:
    """A source without wildcards must be there; no link is followed behind the pivot."""
    with pytest.raises(SourceNotFound):
        Selection(parents=True).find(FILES, pattern)


@pytest.mark.parametrize("flag", ["--exclude", "--parents"])
def test_patterns_that_are_none(flag: str) -> None:
    """The flag is named."""
    selection = Selection(("[a",)) if flag == "--exclude" else Selection(parents=True)
    with pytest.raises(DockerfileError, match=flag):
        selection.find(FILES, "d" if flag == "--exclude" else "d/[a")


def test_the_second_name_of_a_file_inherits_it() -> None:
    """Where the first name of a file is left out, the next one is the file, and later ones its names."""
    files = tree("d/a", "d/b=d/a", "d/c=d/a")
    source = Selection(("a",)).find(files, "d")[0]
    kinds = {entry.path: (entry.kind, entry.link) for entry in source.entries}
    assert kinds["d/b"] == (Kind.FILE, "")
    assert kinds["d/c"] == (Kind.HARDLINK, "d/b")


_NAMES = st.sampled_from(["a", "b", "ab", "a.c"])
_PATHS = st.lists(st.lists(_NAMES, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8)
_PATTERNS = st.lists(
    st.sampled_from(["a", "*", "**", "a*", "!a", "!a/b", "b/**", "**/a", "a/b", "?", "*/a.c"]),
    max_size=4,
)


@given(_PATHS, _PATTERNS)
def test_excludes_are_those_of_an_ignore_file(paths: list[str], patterns: list[str]) -> None:
    """Exactly what the patterns exclude is missing, but for directories above what is not."""
    plain = [path for path in paths if not any(other.startswith(f"{path}/") for other in paths)]
    files = tree(*plain)
    ignored = IgnorePatterns(patterns)
    source = Selection(tuple(patterns)).find(files, "/")[0]
    found = {entry.path for entry in source.entries if entry.path}
    wanted = {
        entry.path for entry in files.walk() if entry.path and not ignored.excluded(entry.path)
    }
    assert wanted == found - source.passing
    assert all(any(w.startswith(f"{path}/") for w in wanted) for path in source.passing)
