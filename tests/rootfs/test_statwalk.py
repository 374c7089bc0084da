"""What two walks over a directory find, judged by what packing the result says; and places that come and go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.snapshot import snapshot
from asyncbuild.rootfs.places import Places
from asyncbuild.rootfs.plainroot import apply_layer, make_root
from asyncbuild.rootfs.statwalk import Seen, Upper, compare, walk


@pytest.fixture
def below(shm_path: Path) -> Path:
    """A layer: directories, files, two names of one file, a link."""
    layer = shm_path / "layer"
    for name in ("etc/passwd", "etc/group", "usr/bin/tool", "var/lib/a", "var/lib/b"):
        (layer / name).parent.mkdir(parents=True, exist_ok=True)
        (layer / name).write_text(f"content of {name}")
    os.link(layer / "usr/bin/tool", layer / "usr/bin/other")
    (layer / "lib").symlink_to("usr/lib")
    return layer


def changes_of(below: Path, work: Callable[[Path], object], *, keep: bool = True) -> ChangeSet:
    """What ``work`` upon a tree of the layer is found to have changed."""
    tree, upper = below.parent / "tree", below.parent / "upper"
    tree.mkdir()
    upper.mkdir()
    make_root([str(below)], str(tree))
    before = walk(str(tree))
    work(tree)
    Upper(str(tree), str(upper), [str(below)], keep=keep).write(before, walk(str(tree)))
    return snapshot(str(upper), [str(below)])


def paths(changes: ChangeSet) -> list[str]:
    """The names of the additions."""
    return [entry.path for entry in changes.additions]


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "given up"])
def test_nothing_done_is_nothing_found(below: Path, keep: bool) -> None:  # noqa: FBT001
    """A file that was only read, or opened for writing, is no change."""

    def work(tree: Path) -> None:
        (tree / "etc/passwd").read_bytes()
        (tree / "etc/group").open("r+").close()
        os.utime(tree / "var/lib/a", ns=(0, (tree / "var/lib/a").stat().st_mtime_ns))

    assert not changes_of(below, work, keep=keep)


def test_a_rewrite_of_the_same_size_and_time_is_found(below: Path) -> None:
    """REQUIREMENTS S35: ctime tells."""

    def work(tree: Path) -> None:
        file = tree / "etc/passwd"
        old = file.stat()
        file.write_bytes(file.read_bytes().swapcase())
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))

    assert paths(changes_of(below, work)) == ["etc", "etc/passwd"]


def test_a_directory_made_again_hides_what_was_there(below: Path) -> None:
    """Also where the file system gives it the same number again."""

    def work(tree: Path) -> None:
        shutil.rmtree(tree / "var/lib")
        (tree / "var/lib").mkdir()
        (tree / "var/lib/b").write_text("new")

    found = changes_of(below, work)
    assert found.opaque == ("var/lib",)
    assert found.deletions == ()
    assert paths(found) == ["var", "var/lib", "var/lib/b"]


def test_the_same_number_but_another_birth_is_another_directory() -> None:
    """ext4 gives the number of a removed directory to the next one."""
    old = Seen(0o40755, 7, 100, 0, 1, (0, 0), 2, 50)
    new = old._replace(ctime_ns=200, birth=150)
    file = Seen(0o100644, 8, 100, 0, 1, (0, 0), 1)
    found = compare({"d": old, "d/f": file}, {"d": new})
    assert (found.made, found.gone, found.changed) == ({"d"}, [], {"d"})


def test_a_directory_replaced_by_a_link_and_back(below: Path) -> None:
    """No whiteout for what was in it; only the top-most name of what is gone is one."""

    def work(tree: Path) -> None:
        shutil.rmtree(tree / "etc")
        (tree / "etc").symlink_to("var")
        shutil.rmtree(tree / "usr")

    found = changes_of(below, work)
    assert found.deletions == ("usr",)
    assert paths(found) == ["etc"]


def test_a_new_name_of_a_file_that_has_several(below: Path) -> None:
    """As overlayfs: one old name is linked with the new one, others are let be."""

    def work(tree: Path) -> None:
        os.link(tree / "usr/bin/tool", tree / "usr/bin/new")

    found = changes_of(below, work)
    assert paths(found) == ["usr", "usr/bin", "usr/bin/new", "usr/bin/other"]


def test_writing_to_one_name_changes_all(below: Path) -> None:
    """They are one file."""

    def work(tree: Path) -> None:
        (tree / "usr/bin/tool").write_text("other")

    assert paths(changes_of(below, work)) == ["usr", "usr/bin", "usr/bin/other", "usr/bin/tool"]


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "given up"])
def test_attributes_travel(below: Path, keep: bool) -> None:  # noqa: FBT001
    """Owner, mode, times, extended attributes and devices."""

    def work(tree: Path) -> None:
        file = tree / "etc/passwd"
        os.setxattr(file, "user.note", b"n")
        os.chown(file, 5, 6)
        file.chmod(0o4750)
        os.utime(file, ns=(1, 2))
        os.mknod(tree / "etc/null", 0o20666, os.makedev(1, 3))
        os.mkfifo(tree / "etc/fifo", 0o600)

    found = {entry.path: entry for entry in changes_of(below, work, keep=keep).additions}
    file = found["etc/passwd"]
    assert (file.uid, file.gid, file.mode, file.mtime_ns) == (5, 6, 0o4750, 2)
    assert file.xattrs == (("user.note", b"n"),)
    assert found["etc/null"].device == (1, 3)
    assert "etc/fifo" in found


def test_a_kept_tree_shares_no_file_with_the_layer(below: Path) -> None:
    """What the next RUN writes in place is in no layer that exists."""
    changes_of(below, lambda tree: (tree / "etc/passwd").write_text("first"))
    (below.parent / "tree/etc/passwd").write_text("second")
    assert (below.parent / "upper/etc/passwd").read_text() == "first"
    assert (below / "etc/passwd").read_text() == "content of etc/passwd"


def test_a_layer_is_applied_to_a_tree(below: Path) -> None:
    """Whiteouts, opaque directories and replaced kinds, as a view of both shows them."""
    tree, top = below.parent / "tree", below.parent / "top"
    tree.mkdir()
    make_root([str(below)], str(tree))
    for name in ("var/lib", "etc/group"):
        (top / name).mkdir(parents=True)
    os.setxattr(top / "var/lib", "trusted.overlay.opaque", b"y")
    (top / "var/lib/c").write_text("c")
    os.mknod(top / "usr", 0o20000, 0)
    (top / "lib").write_text("no link")
    apply_layer(str(top), str(tree))
    expected = ["etc", "etc/group", "etc/passwd", "lib", "var", "var/lib", "var/lib/c"]
    assert sorted(walk(str(tree))) == expected
    assert (tree / "lib").read_text() == "no link"


def test_places_leave_nothing_behind(below: Path) -> None:
    """Covered names come back, made parents go, and no directory has another time."""
    root, aside = below, below.parent / "aside"
    aside.mkdir()
    before = {path: (seen.mode, seen.mtime_ns) for path, seen in walk(str(root)).items()}
    places = Places(str(root), str(aside))
    places.cover("etc/passwd", lambda host: Path(host).write_text("mine"))
    places.cover("run/deep/file", lambda host: Path(host).write_text("mine"))
    places.cover("lib/inside", os.mkdir, follow=True)
    assert (root / "etc/passwd").read_text() == "mine"
    assert (root / "usr/lib/inside").is_dir()
    places.take_away()
    after = {path: (seen.mode, seen.mtime_ns) for path, seen in walk(str(root)).items()}
    assert after == before
    assert (root / "etc/passwd").read_text() == "content of etc/passwd"
    assert list(aside.iterdir()) == []


LOOKING = """
import os, sys
opened = []
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(sys.argv[1]):
        opened.append(os.path.relpath(arguments[0], sys.argv[1]))
from asyncbuild.rootfs.statwalk import Upper, walk
tree, upper, layer = sys.argv[1:]
sys.addaudithook(note)
before = walk(tree)
found = list(opened)
os.truncate(tree + "/d7/f9", 0)
Upper(tree, upper, [layer], keep=True).write(before, walk(tree))
print(len(before), found, sorted(set(opened)))
"""


def test_what_did_not_change_is_never_read(shm_path: Path) -> None:
    """Of ten thousand files the one is opened that another size has; nothing is hashed before the command."""
    layer, tree, upper = (shm_path / name for name in ("layer", "tree", "upper"))
    for number in range(100):
        (layer / f"d{number}").mkdir(parents=True)
        for file in range(100):
            (layer / f"d{number}/f{file}").write_text("content")
    tree.mkdir()
    upper.mkdir()
    make_root([str(layer)], str(tree))
    program = f"import sys; sys.path[:0] = {sys.path!r}\n{LOOKING}"
    command = [sys.executable, "-c", program, str(tree), str(upper), str(layer)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "10100 [] ['d7/f9']\n"


def test_mount_points_are_left_out(below: Path) -> None:
    """What is mounted in a tree is not of it."""
    (below / "mnt").mkdir()
    script = 'mount -t tmpfs none $1/mnt && touch $1/mnt/inside && exec $0 -c "$2" $1'
    program = f"import sys; sys.path[:0] = {sys.path!r}\n"
    program += "from asyncbuild.rootfs.statwalk import walk; print(*sorted(walk(sys.argv[1])))"
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, str(below), program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = done.stdout.split()
    assert "etc/passwd" in found
    assert not [path for path in found if path.startswith("mnt")]
