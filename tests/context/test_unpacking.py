"""Where an archive's content goes: against GNU tar in a chroot of its own where the two agree."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.context.placement import Placement, place
from asyncbuild.context.sources import UnpackedArchive
from asyncbuild.layers.changeset import ChangeSet, Entry, InlineSource, Kind
from asyncbuild.layers.extract import ExtractJob, extract
from asyncbuild.layers.materialise import materialise
from asyncbuild.rootfs.view import ChangeSetTree, DirectoryTree, View
from support.images import Node, directory, make_tar, symlink, text
from support.scratch import scratch


def unpacked(path: Path, *nodes: Node) -> UnpackedArchive:
    """An archive of ``nodes``, unpacked below ``path`` as a build does it."""
    path.mkdir()
    file, work = path / "a.tar", path / "fs"
    file.write_bytes(make_tar(nodes))
    work.mkdir()
    facts = extract(ExtractJob(str(file), str(work)))
    entries = tuple(e for e in View([DirectoryTree(work)]).walk("", hardlinks=True) if e.path)
    implicit = frozenset(facts.implicit_directories)
    return UnpackedArchive("a.tar", entries, implicit, facts.outside_entries)


def shape(view: View) -> dict[str, tuple[str, str]]:
    """What each path is: its kind, and its content or target."""
    found = {}
    for entry in view.walk():
        told = entry.link
        if entry.kind is Kind.FILE:
            told = (view.read(entry.path) or b"").decode()
        found[entry.path] = (entry.kind.name, told)
    return found


def on_top(changes: ChangeSet, *below: Entry) -> View:
    """The root after a step."""
    return View([ChangeSetTree(changes), ChangeSetTree(ChangeSet.of(below))])


def test_the_change_set_hides_what_was_replaced(shm_path: Path) -> None:
    """A directory that a file replaced, and another directory then, has nothing of what was in it."""
    old = [
        Entry("d", Kind.DIRECTORY, 0o755),
        Entry("d/old", Kind.FILE, source=InlineSource(b"")),
    ]
    root = View([ChangeSetTree(ChangeSet.of(old))])
    first = unpacked(shm_path / "1", text("d", "a file"))
    second = unpacked(shm_path / "2", directory("d"), text("d/new", "n"))
    changes = place([first, second], Placement("/"), root)
    assert changes.opaque == ("d",)
    assert sorted(shape(on_top(changes, *old))) == ["", "d", "d/new"]
    written = shm_path / "written"
    written.mkdir()
    materialise(changes, str(written))
    assert sorted(shape(View([DirectoryTree(written), *root.trees]))) == ["", "d", "d/new"]


def test_names_of_one_file_stay_names_of_one_file(shm_path: Path) -> None:
    """Hard links inside an archive, through a directory that is a link in the image."""
    root = [Entry("real", Kind.DIRECTORY, 0o755), Entry("via", Kind.SYMLINK, link="real")]
    link = replace(text("via/b", ""), kind=b"1", target="via/a", content=b"")
    made = unpacked(shm_path / "1", text("via/a", "same"), link)
    changes = place([made], Placement("/"), View([ChangeSetTree(ChangeSet.of(root))]))
    placed = {entry.path: entry for entry in changes.additions}
    assert placed["real/b"].kind is Kind.HARDLINK
    assert placed["real/b"].link == "real/a"


_NAMES = st.sampled_from("ab")
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_NODES = st.one_of(
    _PATHS.map(directory),
    st.builds(text, _PATHS, st.sampled_from(["1", "2"])),
    st.builds(symlink, _PATHS, st.sampled_from(["a", "b", "../b", "/a"])),
)


def fitting(nodes: list[Node]) -> list[Node]:
    """Those of ``nodes`` that a tree can hold together: each path once, below directories only."""
    kept: dict[str, Node] = {}
    for node in nodes:
        ups = ["/".join(node.path.split("/")[:n]) for n in range(1, node.path.count("/") + 1)]
        fits = all(up in kept and kept[up].kind == b"5" for up in ups)
        if fits and node.path not in kept:
            kept[node.path] = node
    return list(kept.values())


@settings(max_examples=60)
@given(st.lists(_NODES, max_size=6), st.lists(_NODES, max_size=6))
def test_as_tar_does_it(old: list[Node], new: list[Node]) -> None:
    """Over whatever stands there: the same tree as ``tar --recursive-unlink --unlink-first`` makes.

    Both archives name all of their directories: then no link is followed, and the two agree. But tar empties
    a directory that it finds where it makes one, and here the two are merged, as layers and BuildKit merge them:
    so tar is not told of those.
    """
    there = {node.path for node in fitting(old) if node.kind == b"5"}
    rest = [node for node in fitting(new) if node.kind != b"5" or node.path not in there]
    with scratch() as path:
        base = unpacked(path / "old", *fitting(old))
        first = place([base], Placement("/"), None)
        root = View([ChangeSetTree(first)])
        changes = place([unpacked(path / "new", *fitting(new))], Placement("/"), root)
        ours = shape(View([ChangeSetTree(changes), *root.trees]))
        theirs = path / "theirs"
        theirs.mkdir()
        command = ["tar", "-C", str(theirs), "--recursive-unlink", "--unlink-first", "-xf", "-"]
        for nodes in (fitting(old), rest):
            subprocess.run(command, input=make_tar(nodes), check=True, capture_output=True)
        assert ours == shape(View([DirectoryTree(theirs)]))
