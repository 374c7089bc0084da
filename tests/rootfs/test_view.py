"""The merged view: against the kernel's overlay, and each of its questions."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, InlineSource, Kind, path_order
from asyncbuild.rootfs.view import ChangeSetTree, DirectoryTree, View
from support.overlay import Fact, mounted_facts

Spec = dict[str, tuple[str, int]]
_names = st.sampled_from(["a", "b", "c", "a-b"])
_paths = st.lists(_names, min_size=1, max_size=3).map("/".join)
_kinds = st.sampled_from(["file", "directory", "opaque", "link", "whiteout", "fifo"])
_specs: st.SearchStrategy[Spec] = st.dictionaries(
    _paths, st.tuples(_kinds, st.integers(0, 3)), max_size=8
)


def write_tree(root: Path, spec: Spec) -> None:
    """Make a lower directory: parents are directories, whatever the specification says of them."""
    root.mkdir()
    needed = {"/".join(path.split("/")[:n]) for path in spec for n in range(1, path.count("/") + 1)}
    for path in sorted(needed | set(spec), key=path_order):
        kind, number = spec.get(path, ("directory", 1))
        where = root / path
        if path in needed and kind not in ("directory", "opaque"):
            kind = "directory"
        if kind == "file":
            where.write_bytes(b"x" * number)
        elif kind == "link":
            where.symlink_to(["a", "/b", "../c", "/etc"][number])
        elif kind == "whiteout":
            os.mknod(where, 0o20000, 0)
        elif kind == "fifo":
            os.mkfifo(where)
        else:
            where.mkdir()
        os.chown(where, number, number, follow_symlinks=False)
        if kind == "opaque":
            os.setxattr(where, "trusted.overlay.opaque", b"y")
        if kind in ("file", "directory"):
            where.chmod(0o4750 + number)
            os.setxattr(where, "user.number", b"%d" % number)
    for path in sorted(needed | set(spec), key=path_order, reverse=True):
        os.utime(root / path, ns=(1, 10**18 + len(path)), follow_symlinks=False)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_specs, min_size=1, max_size=4))
def test_a_walk_is_what_the_kernel_shows(specs: list[Spec]) -> None:
    """Walking a random stack gives exactly the merged tree of a real overlay mount."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="view-"))
    try:
        lower = [base / str(number) for number in range(len(specs))]
        for root, spec in zip(lower, specs, strict=True):
            write_tree(root, spec)
        view = View([DirectoryTree(root) for root in lower])
        entries = list(view.walk())
        assert {entry.path: entry_fact(entry) for entry in entries} == mounted_facts(
            lower, base / "merged"
        )
        paths = [entry.path for entry in entries]
        assert paths[1:] == sorted(paths[1:], key=path_order)
        assert [view.lookup(path) for path in paths] == entries
        for path in paths:
            inside = [p.rpartition("/")[2] for p in paths[1:] if p.rpartition("/")[0] == path]
            assert view.names(path) == inside
    finally:
        shutil.rmtree(base)


def entry_fact(entry: Entry) -> Fact:
    """The facts of an entry that a view gives."""
    content = b""
    if isinstance(entry.source, FileSource):
        content = Path(entry.source.path).read_bytes()
        assert entry.size == len(content)
    return Fact(
        entry.kind.value,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.link,
        content,
        entry.xattrs,
    )


def _change(spec: Spec) -> ChangeSet:
    """The same tree as a change set."""
    additions, deletions, opaque = [], [], []
    for path, (kind, number) in spec.items():
        if kind == "whiteout":
            deletions.append(path)
        elif kind in ("directory", "opaque"):
            additions.append(Entry(path, Kind.DIRECTORY, 0o750, number, number))
            opaque += [path] * (kind == "opaque")
        elif kind == "link":
            additions.append(Entry(path, Kind.SYMLINK, 0o777, link="x"))
        else:
            data = b"y" * number
            additions.append(Entry(path, Kind.FILE, size=number, source=InlineSource(data)))
    return ChangeSet.of(additions, deletions, opaque)


@settings(max_examples=150, deadline=None)
@given(st.lists(_specs, min_size=1, max_size=4), st.integers(0, 3))
def test_change_sets_merge_as_directories_do(specs: list[Spec], at: int) -> None:
    """A change set in memory hides and merges like the same tree on disk."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="view-"))
    try:
        disk, mixed = [], []
        for number, spec in enumerate(specs):
            consistent = {
                path: item
                for path, item in spec.items()
                if not any(other.startswith(f"{path}/") for other in spec)
                or item[0] in ("directory", "opaque")
            }
            write_tree(base / str(number), consistent)
            tree = DirectoryTree(base / str(number))
            disk.append(tree)
            mixed.append(ChangeSetTree(_change(consistent)) if number == at else tree)
        seen = [[(e.path, e.kind is Kind.DIRECTORY) for e in View(t).walk()] for t in (disk, mixed)]
        assert seen[0] == seen[1]
    finally:
        shutil.rmtree(base)


def test_a_symlink_in_a_layer_never_leads_out_of_it(shm_path: Path) -> None:
    """A path below a symlink to a host directory is nothing, and resolves inside the root."""
    (shm_path / "fs").mkdir()
    (shm_path / "fs/out").symlink_to("/etc")
    view = View([DirectoryTree(shm_path / "fs")])
    assert view.lookup("out/passwd") is None
    assert view.names("out") == []
    assert view.resolve("out/passwd") == "etc/passwd"
    assert view.read("out/passwd") is None


def test_links_resolve_inside_the_root(shm_path: Path) -> None:
    """Relative, absolute and climbing links resolve as after a chroot, over several layers."""
    top, low = shm_path / "top", shm_path / "low"
    (low / "usr/bin").mkdir(parents=True)
    (low / "bin").symlink_to("usr/bin")
    (low / "usr/bin/sh").write_bytes(b"#!")
    top.mkdir()
    (top / "abs").symlink_to("/bin/sh")
    (top / "climb").symlink_to("../../../../bin")
    view = View([DirectoryTree(top), DirectoryTree(low)])
    assert view.resolve("abs") == "usr/bin/sh"
    assert view.resolve("/climb/../x") == "usr/x"
    assert view.resolve("climb", follow_last=False) == "climb"
    assert view.resolve("bin/none/../sh") == "usr/bin/sh"
    assert view.read("abs") == b"#!"


def test_a_link_loop_is_an_error(shm_path: Path) -> None:
    """Two links that name each other end in an error that names the path."""
    (shm_path / "a").symlink_to("b")
    (shm_path / "b").symlink_to("a")
    with pytest.raises(InputError, match="/a: too many symbolic links"):
        View([DirectoryTree(shm_path)]).resolve("a")


def test_reading_has_a_limit_and_wants_a_file(shm_path: Path) -> None:
    """A directory or a file larger than the limit cannot be read."""
    (shm_path / "file").write_bytes(b"12345")
    view = View([DirectoryTree(shm_path)])
    assert view.read("file", limit=5) == b"12345"
    with pytest.raises(InputError, match="more than 4"):
        view.read("file", limit=4)
    with pytest.raises(InputError, match="not a regular file"):
        view.read("/")


def test_hardlinks_are_found_on_demand(shm_path: Path) -> None:
    """Names of one inode in one layer become a file and hardlinks to it, when asked for."""
    (shm_path / "d").mkdir()
    (shm_path / "d/one").write_bytes(b"1")
    os.link(shm_path / "d/one", shm_path / "d/two")
    os.link(shm_path / "d/one", shm_path / "outside")
    view = View([DirectoryTree(shm_path)])
    assert [e.kind for e in view.walk("d")] == [Kind.DIRECTORY, Kind.FILE, Kind.FILE]
    linked = list(view.walk("d", hardlinks=True))
    assert [(e.kind, e.link, e.size) for e in linked[1:]] == [
        (Kind.FILE, "", 1),
        (Kind.HARDLINK, "d/one", 0),
    ]
    assert [e.kind for e in view.walk("outside", hardlinks=True)] == [Kind.FILE]


def test_a_hardlink_in_a_change_set_is_its_file(shm_path: Path) -> None:
    """Looking up a hardlink gives the file it names, in its own or in a lower tree."""
    (shm_path / "low").write_bytes(b"low")
    changes = ChangeSet.of(
        [
            Entry("file", Kind.FILE, size=2, source=InlineSource(b"up")),
            Entry("same", Kind.HARDLINK, link="file"),
            Entry("other", Kind.HARDLINK, link="low"),
        ]
    )
    view = View([ChangeSetTree(changes), DirectoryTree(shm_path)])
    assert view.read("same") == b"up"
    assert view.read("other") == b"low"
    other = view.lookup("other")
    assert other is not None
    assert other.source == FileSource(str(shm_path / "low"))
    walked = {e.path: e for e in view.walk(hardlinks=True)}
    assert (walked["same"].kind, walked["same"].link) == (Kind.HARDLINK, "file")


def test_a_hardlink_to_nothing_is_an_error() -> None:
    """A hardlink whose file is gone is reported, not returned."""
    view = View([ChangeSetTree(ChangeSet.of([Entry("x", Kind.HARDLINK, link="gone")]))])
    with pytest.raises(InputError, match="/x is a hardlink"):
        view.lookup("x")


def test_implied_directories_take_the_attributes_below(shm_path: Path) -> None:
    """A parent that a change set does not add looks like the directory below it."""
    (shm_path / "opt").mkdir(mode=0o700)
    (shm_path / "opt").chmod(0o2711)
    added = Entry("opt/new/file", Kind.FILE, source=InlineSource(b""))
    view = View([DirectoryTree(shm_path)]).with_top(ChangeSetTree(ChangeSet.of([added])))
    assert [(e.path, e.mode) for e in view.walk("opt")] == [
        ("opt", 0o2711),
        ("opt/new", 0o755),
        ("opt/new/file", 0o644),
    ]


def test_an_empty_view_is_scratch() -> None:
    """Without trees there is a root and nothing in it."""
    view = View()
    assert [entry.path for entry in view.walk()] == [""]
    assert view.lookup("etc") is None
    assert view.glob("*") == []
    assert view.resolve("/a/../b") == "b"


def test_glob_follows_links_only_before_the_first_wildcard(shm_path: Path) -> None:
    """Wildcards match per component; a link between wildcards is no directory."""
    (shm_path / "real/sub").mkdir(parents=True)
    for name in ("real/one.txt", "real/two.txt", "real/.hidden.txt", "real/sub/x.txt", "real/a*"):
        (shm_path / name).write_bytes(b"")
    (shm_path / "link").symlink_to("real")
    view = View([DirectoryTree(shm_path)])
    assert view.glob("link/*.txt") == ["real/.hidden.txt", "real/one.txt", "real/two.txt"]
    assert view.glob("*/sub/?.txt") == ["real/sub/x.txt"]
    assert view.glob("l*") == ["link"]
    assert view.glob("l*/*.txt") == []
    assert view.glob("link/[a-o]*") == ["real/a*", "real/one.txt"]
    assert view.glob(r"real/a\*") == [r"real/a*"]
    assert view.glob("none") == []


def test_names_that_are_not_utf8_survive(shm_path: Path) -> None:
    """Names are bytes: they come back through surrogate escapes."""
    raw = os.fsencode(shm_path) + b"/\xff\xfe"
    with open(raw, "wb") as file:
        file.write(b"raw")
    view = View([DirectoryTree(shm_path)])
    assert view.read(os.fsdecode(b"\xff\xfe")) == b"raw"
