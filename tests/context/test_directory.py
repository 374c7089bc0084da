"""The context: what is in it, what is left out, and that it is never touched."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.context.directory import DirectoryContext, open_context
from asyncbuild.context.fingerprint import ContentDigests
from asyncbuild.context.ignorefile import IgnoreFile
from asyncbuild.errors import InputError, SourceNotFound
from asyncbuild.layers.changeset import Entry, FileSource, Kind, path_order
from asyncbuild.layers.opening import open_source
from support.overlay import as_nobody


def make(root: Path, *paths: str) -> Path:
    """Files with their path as content; a name that ends in / is a directory."""
    for path in paths:
        where = root / path
        (where if path.endswith("/") else where.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            where.write_text(path)
    return root


def context(root: Path, ignore: str = "") -> DirectoryContext:
    """A context with ignore patterns."""
    return DirectoryContext(root, IgnoreFile.parse(ignore))


def found(context: DirectoryContext, pattern: str) -> list[str]:
    """The names of all that a pattern brings, from each source."""
    return [s.relative(e.path) or f"={s.name}" for s in context.find(pattern) for e in s.entries]


def test_entries_are_what_an_image_gets(shm_path: Path) -> None:
    """Owner 0:0; mode, time, links, devices and fifos as they are; sockets are left out."""
    make(shm_path, "d/file")
    os.chown(shm_path / "d/file", 1000, 1000)
    (shm_path / "d/file").chmod(0o4755)
    os.utime(shm_path / "d/file", ns=(1, 123_456_789_000_000_001))
    (shm_path / "d/link").symlink_to("../nowhere")
    os.mkfifo(shm_path / "d/fifo", 0o600)
    os.mknod(shm_path / "d/null", 0o20666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(shm_path / "d/socket"))
    entries = {e.path: e for e in context(shm_path).walk("d")}
    assert list(entries) == ["d", "d/fifo", "d/file", "d/link", "d/null"]
    assert entries["d/file"] == Entry(
        "d/file",
        Kind.FILE,
        0o4755,
        mtime_ns=123_456_789_000_000_001,
        size=6,
        source=FileSource(str(shm_path / "d/file")),
    )
    assert (entries["d/link"].kind, entries["d/link"].link) == (Kind.SYMLINK, "../nowhere")
    assert entries["d/fifo"].kind is Kind.FIFO
    assert entries["d/null"].device == (1, 3)


def test_capabilities_come_along_and_other_attributes_do_not(shm_path: Path) -> None:
    """Of a program's extended attributes only its capabilities are the image's business."""
    make(shm_path, "program")
    (shm_path / "program").chmod(0o755)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(shm_path / "program", "security.capability", capability)
    os.setxattr(shm_path / "program", "user.origin", b"somewhere")
    entry = context(shm_path).lookup("program")
    assert entry is not None
    assert entry.xattrs == (("security.capability", capability),)


def test_hardlinks_within_a_walk(shm_path: Path) -> None:
    """The first name in order is the file, the others link to it."""
    make(shm_path, "d/b")
    os.link(shm_path / "d/b", shm_path / "d/a")
    os.link(shm_path / "d/b", shm_path / "outside")
    walked = list(context(shm_path).walk("d"))
    assert [(e.kind, e.link) for e in walked[1:]] == [(Kind.FILE, ""), (Kind.HARDLINK, "d/a")]
    plain = list(context(shm_path).walk("d", hardlinks=False))
    assert [e.kind for e in plain[1:]] == [Kind.FILE, Kind.FILE]


def test_what_is_excluded_is_not_there(shm_path: Path) -> None:
    """Excluded files and directories are neither walked, listed nor found."""
    make(shm_path, "a.log", "a.txt", "out/x", "src/b.log", "src/c")
    some = context(shm_path, "**/*.log\nout\n")
    assert [e.path for e in some.walk()] == ["", "a.txt", "src", "src/c"]
    assert some.names("") == ["a.txt", "src"]
    assert some.names("out") == []
    assert some.lookup("out") is None
    assert found(some, "*") == ["=a.txt", "=src", "c"]


def test_a_directory_is_there_for_what_is_included_in_it(shm_path: Path) -> None:
    """An exception below an excluded directory brings the directories on its way, and only those."""
    make(shm_path, "out/deep/keep", "out/deep/drop", "out/empty/", "out/x")
    some = context(shm_path, "out\n!out/deep/keep\n")
    assert [e.path for e in some.walk()] == ["", "out", "out/deep", "out/deep/keep"]
    assert some.names("") == ["out"]
    assert some.names("out") == ["deep"]
    assert found(some, "out/*") == ["=deep", "keep"]
    assert some.lookup("out/empty") is None


def test_one_file_may_be_left_of_several(shm_path: Path) -> None:
    """``ignore/*`` with three files of which two are excluded is one source (kaniko's own case)."""
    make(shm_path, "ignore/foo", "ignore/bar", "ignore/baz")
    some = context(shm_path, "ignore/**\n!ignore/foo\n")
    assert [source.name for source in some.find("ignore/*")] == ["foo"]


def test_links_resolve_inside_the_context(shm_path: Path) -> None:
    """Absolute and climbing links start at the context's root; none leads out of it."""
    make(shm_path, "real/file", "etc/passwd")
    (shm_path / "absolute").symlink_to("/real")
    (shm_path / "climbing").symlink_to("../../../../etc/passwd")
    some = context(shm_path)
    assert found(some, "absolute/file") == ["=file"]
    assert found(some, "absolute") == ["=absolute", "file"]
    (source,) = some.find("climbing")
    assert (source.name, source.path) == ("climbing", "etc/passwd")
    assert source.entries[0].source == FileSource(str(shm_path / "etc/passwd"))
    assert some.lookup("absolute/file") is None


def test_the_context_itself_may_be_a_link(shm_path: Path) -> None:
    """The path that was given is followed once, at the beginning."""
    make(shm_path / "real", "file")
    (shm_path / "link").symlink_to("real")
    assert found(context(shm_path / "link"), ".") == ["=", "file"]


@pytest.mark.parametrize("pattern", [".", "/", "", "./", "..", "../..", "src/.."])
def test_every_way_to_name_the_root(shm_path: Path, pattern: str) -> None:
    """All of these are the whole context; ``..`` does not leave it."""
    make(shm_path, "a", "src/b")
    assert found(context(shm_path), pattern) == ["=", "a", "src", "src/b"]


def test_wildcards_and_escapes(shm_path: Path) -> None:
    """Names with wildcards in them can be named."""
    make(shm_path, "arr[0].txt", "arr0.txt", "*", "x")
    some = context(shm_path)
    assert found(some, "arr[[]0].txt") == ["=arr[0].txt"]
    assert found(some, "arr[0].txt") == ["=arr0.txt"]
    assert found(some, r"\*") == ["=*"]
    assert found(some, "none*") == []


def test_a_broken_pattern_may_be_a_name(shm_path: Path) -> None:
    """A bracket that is not closed is taken literally if there is such a file, and else explained."""
    some = context(make(shm_path, "a[b"))
    assert found(some, "a[b") == ["=a[b"]
    with pytest.raises(SourceNotFound) as caught:
        some.find("a[c")
    assert "[[]" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("app.log", ".dockerignore excludes it (line 1: *.log)"),
        ("out/x", ".dockerignore excludes it (line 2: out)"),
        ("src/mian.py", "did you mean /src/main.py?"),
        ("SRC/main.py", "did you mean /src?"),
        ("to-log", ".dockerignore excludes it (line 1: *.log)"),
        ("completely-different", None),
    ],
)
def test_what_is_missing_is_explained(shm_path: Path, name: str, hint: str | None) -> None:
    """The hint names the line that excludes a path, or the nearest name."""
    make(shm_path, "app.log", "out/x", "src/main.py")
    (shm_path / "to-log").symlink_to("app.log")
    with pytest.raises(SourceNotFound, match=f"/{name}") as caught:
        context(shm_path, "*.log\nout\n").find(name)
    assert caught.value.hint == hint


def test_a_dangling_link_says_where_it_leads(shm_path: Path) -> None:
    """A link to nowhere is missing, found by its name or by a wildcard."""
    (shm_path / "link").symlink_to("gone/far")
    for pattern in ("link", "l*"):
        with pytest.raises(SourceNotFound, match=r"/link \(a link to /gone/far\)"):
            context(shm_path).find(pattern)


def test_no_context_has_nothing() -> None:
    """A build without a context says so when it needs one."""
    none = open_context(None, None)
    assert none.names("") == []
    assert [e.path for e in none.walk()] == [""]
    with pytest.raises(SourceNotFound) as caught:
        none.find("x")
    assert caught.value.hint == "this build has no context"


def test_a_context_must_be_a_directory(shm_path: Path) -> None:
    """A file or a missing path is refused when the context is opened."""
    make(shm_path, "file")
    for name in ("file", "missing"):
        with pytest.raises(InputError, match="not a directory"):
            open_context(shm_path / name, None)


def test_access_times_stay(shm_path: Path) -> None:
    """Walking a context does not even update when its directories were read."""
    make(shm_path, "d/file")
    for path in (shm_path, shm_path / "d"):
        os.utime(path, ns=(10**18, 2 * 10**18))
    before = [os.stat(path).st_atime_ns for path in (shm_path, shm_path / "d")]
    list(context(shm_path).walk())
    assert [os.stat(path).st_atime_ns for path in (shm_path, shm_path / "d")] == before


def test_unreadable_directories_are_explained_or_excluded(shm_path: Path) -> None:
    """What may not be read is an error with a way out, and that way works."""
    make(shm_path, "closed/file", "open")
    (shm_path / "closed").chmod(0o700)
    shm_path.chmod(0o755)

    def work() -> None:
        with pytest.raises(InputError, match="cannot read /closed") as caught:
            list(context(shm_path).walk())
        assert ".dockerignore" in (caught.value.hint or "")
        assert [e.path for e in context(shm_path, "closed").walk()] == ["", "open"]

    as_nobody(work)


def test_a_file_that_may_not_be_read_is_explained(shm_path: Path) -> None:
    """It is walked, for its name may be seen; who reads it says which file it is."""
    make(shm_path, "secret", "open")
    (shm_path / "secret").chmod(0o600)
    shm_path.chmod(0o755)

    def work() -> None:
        entries = {entry.path: entry for entry in context(shm_path).walk()}
        source = entries["secret"].source
        assert isinstance(source, FileSource)
        with pytest.raises(InputError, match=r"cannot read .*/secret: Permission denied"):
            open_source(source.path)
        with pytest.raises(InputError, match=r"cannot read .*/secret: Permission denied"):
            ContentDigests().of(source.path)

    as_nobody(work)


def test_very_deep_directories_are_walked(shm_path: Path) -> None:
    """Depth costs descriptors, not the interpreter's stack."""
    deep = shm_path
    for _ in range(400):
        deep /= "d"
    deep.mkdir(parents=True)
    assert sum(1 for _ in context(shm_path).walk()) == 401


_names = st.sampled_from(["a", "b", "c.x", "d-"])
_paths = st.lists(_names, min_size=1, max_size=3).map("/".join)
_patterns = st.lists(
    st.builds(
        str.__add__,
        st.sampled_from(["", "", "!"]),
        st.one_of(_paths, st.sampled_from(["*", "**/a", "*/b", "a/**", "?", "**/*.x"])),
    ),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(st.sets(_paths, max_size=8), _patterns)
def test_walks_list_exactly_what_is_not_excluded(paths: set[str], patterns: list[str]) -> None:
    """Every file that the patterns leave, and every directory that they leave or that holds one."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="context-"))
    try:
        files = [p for p in paths if not any(other.startswith(f"{p}/") for other in paths)]
        make(base, *files)
        some = context(base, "\n".join(patterns))
        excluded = IgnoreFile.parse("\n".join(patterns)).patterns.excluded
        everything = {str(path.relative_to(base)) for path in base.rglob("*")}
        left = {path for path in everything if not excluded(path)}
        left |= {"/".join(p.split("/")[:n]) for p in left for n in range(1, p.count("/") + 1)}
        walked = [entry.path for entry in some.walk()][1:]
        assert walked == sorted(left, key=path_order)
        for path in everything:
            assert (some.lookup(path) is not None) == (path in left)
    finally:
        shutil.rmtree(base)
