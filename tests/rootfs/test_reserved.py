"""What in a root is not the image's: which names, and how emptying, unpacking and walking leave it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncbuild.layers.marks import make_opaque, make_whiteout
from asyncbuild.rootfs.ownroot import empty, fill, is_disk
from asyncbuild.rootfs.places import Places
from asyncbuild.rootfs.plainroot import apply_layer
from asyncbuild.rootfs.reserved import NOTHING, Reserved, names_of
from asyncbuild.rootfs.statwalk import compare, walk
from asyncbuild.rootfs.view import DirectoryTree, View


def files(top: Path, *names: str) -> Path:
    """Files that hold their own names."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    return top


def names(top: Path) -> set[str]:
    """Every name below a directory."""
    return {str(path.relative_to(top)) for path in top.rglob("*")}


def test_names_are_whole_words() -> None:
    """What is in a reserved directory is, what only begins like it is not; the root cannot be."""
    reserved = Reserved.of(["/a/b/", "c", "/", "/d/../e"], ["/w/x", "/a"])
    assert reserved.names == {"a/b", "c", "e"}
    assert reserved.leading == {"a", "w", "w/x"}
    assert [path for path in ("a/b", "a/b/in", "c/in/it", "e") if not reserved.holds(path)] == []
    assert [path for path in ("", "a", "a/bb", "cc", "w/x", "w") if reserved.holds(path)] == []


def test_a_path_is_reserved_with_the_links_on_its_way(shm_path: Path) -> None:
    """Without one of them it would lead elsewhere; what does not exist is itself."""
    top = files(Path(os.path.realpath(shm_path)), "real/deep/file")
    (top / "link").symlink_to("real")
    (top / "real/up").symlink_to(f"{top}/link/deep/../deep")
    found = list(names_of(f"{top}/link/up/file"))
    assert found == [f"{top}/link", f"{top}/real/up", f"{top}/link", f"{top}/real/deep/file"]
    assert list(names_of(f"{top}/missing/x")) == [f"{top}/missing/x"]
    (top / "loop").symlink_to("loop")
    assert next(names_of(f"{top}/loop")) == f"{top}/loop"


def test_a_root_with_something_reserved(shm_path: Path) -> None:
    """It is emptied and filled around that, with every attribute of the directories above; hard links whose
    first name is reserved are links all the same; sources are not gone into.
    """
    root = files(shm_path / "root", "etc/hosts", "etc/passwd", "data/kept/x", "data/other", "cwd/y")
    layer = files(shm_path / "layer", "etc/hosts", "etc/shadow", "data/kept/image", "data/new")
    os.link(layer / "data/kept/image", layer / "data/second")
    os.link(layer / "data/kept/image", layer / "data/third")
    (layer / "data").chmod(0o2750)
    os.chown(layer / "data", 7, 8)
    os.utime(layer / "data", (1000, 1000))
    reserved = Reserved.of(["/etc/hosts", "/data/kept"], ["/cwd", "/made/anew"])
    empty(reserved, str(root))
    assert names(root) == {"etc", "etc/hosts", "data", "data/kept", "data/kept/x", "cwd"}
    fill(View([DirectoryTree(layer)]), reserved, str(root))
    kept = {"etc", "etc/hosts", "data", "data/kept", "data/kept/x", "cwd", "made", "made/anew"}
    assert names(root) == kept | {"etc/shadow", "data/new", "data/second", "data/third"}
    assert (root / "etc/hosts").read_text() == "etc/hosts"
    assert (root / "data/second").read_text() == "data/kept/image"
    assert (root / "data/second").stat().st_ino == (root / "data/third").stat().st_ino
    status = (root / "data").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2750, 7, 8)
    assert status.st_mtime == 1000


def test_an_image_that_has_no_directory_there(shm_path: Path) -> None:
    """The directory stays, and nothing of that place is the image's."""
    root = files(shm_path / "root", "var/run/secrets/token")
    layer = files(shm_path / "layer", "run/x")
    (layer / "var").mkdir()
    (layer / "var/run").symlink_to("/run")
    view = View([DirectoryTree(layer)])
    reserved = Reserved.of(["/var/run/secrets"]).and_where_it_differs(view)
    assert reserved.names == {"var/run/secrets", "var/run"}
    fill(view, reserved, str(root))
    assert not (root / "var/run").is_symlink()
    before = walk(str(root), reserved=reserved)
    (root / "var/run/new").write_text("")
    assert compare(before, walk(str(root), reserved=reserved)).changed == set()


def test_a_walk_does_not_go_into_it(shm_path: Path) -> None:
    """A reserved file hides nothing that comes after it; of a directory nothing is seen."""
    root = files(shm_path, "a/x", "a/y", "b/in/deep", "c")
    seen = walk(str(root), reserved=Reserved.of(["/a/x", "/b/in"]))
    assert set(seen) == {"a", "a/y", "b", "c"}


@pytest.mark.parametrize("kind", ["whiteout", "file", "opaque"])
def test_a_layer_leaves_it_alone(shm_path: Path, kind: str) -> None:
    """Whatever it hides or puts above it."""
    root = files(shm_path / "root", "a/b/kept", "a/b/gone", "a/gone")
    layer = files(shm_path / "layer", "c")
    if kind == "whiteout":
        where = os.open(layer, os.O_RDONLY)
        make_whiteout("a", where)
        os.close(where)
    elif kind == "file":
        (layer / "a").write_text("file")
    else:
        files(layer, "a/new", "a/b/kept")
        make_opaque(str(layer / "a"))
    reserved = Reserved.of(["/a/b/kept"])
    if kind == "file":
        reserved = reserved.and_where_it_differs(View([DirectoryTree(layer)]))
    apply_layer(str(layer), str(root), reserved)
    assert (root / "a/b/kept").read_text() == "a/b/kept"
    if kind == "file":
        assert names(root) == {"a", "a/b", "a/b/kept", "a/b/gone", "a/gone", "c"}
    else:
        new = {"a/new"} if kind == "opaque" else set()
        assert names(root) == {"a", "a/b", "a/b/kept", "c"} | new


def test_what_is_moved_between_file_systems_comes_back(shm_path: Path, tmp_path: Path) -> None:
    """A cache, whose store may be a volume of its own; what stood there is aside meanwhile."""
    cache = files(shm_path / "cache", "deep/file")
    root = files(tmp_path / "root", "place/old")
    (shm_path / "aside").mkdir()
    places = Places(str(root), str(shm_path / "aside"))
    places.cover("place", lambda host: places.move_in(str(cache), host))
    assert names(root) == {"place", "place/deep", "place/deep/file"} | _left_aside(root)
    (root / "place/deep/more").write_text("more")
    places.take_away()
    assert names(root) == {"place", "place/old"}
    assert (cache / "deep/more").read_text() == "more"


def test_a_file_that_is_a_mount_has_another_content_for_a_while(shm_path: Path) -> None:
    """Bytes, permissions, owner and time come back; a directory cannot be shown there."""
    host = files(shm_path / "root", "etc/hosts") / "etc/hosts"
    os.chown(host, 3, 4)
    host.chmod(0o640)
    os.utime(host, (1000, 1000))
    (shm_path / "aside").mkdir()
    before, inode = host.stat(), host.stat().st_ino
    code = BIND.format(host=str(host), top=str(shm_path))
    subprocess.run(["unshare", "--mount", sys.executable, "-c", code], check=True)
    after = host.stat()
    assert host.read_text() == "etc/hosts"
    assert after.st_ino == inode
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        assert getattr(after, name) == getattr(before, name)


BIND = """\
import os, subprocess
from asyncbuild.rootfs.places import Places, write_file
host, top = {host!r}, {top!r}
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", host, host], check=True)
places = Places(top + "/root", top + "/aside")
places.cover("etc/hosts", lambda path: write_file(path, b"more than before", 0o600, (7, 8)))
assert open(host).read() == "more than before"
status = os.stat(host)
assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o600, 7, 8)
try:
    places.cover("etc/hosts", os.mkdir)
except OSError as error:
    assert "busy" in str(error), error
else:
    raise AssertionError
places.take_away()
"""


def _left_aside(root: Path) -> set[str]:
    return {name for name in names(root) if name.startswith(".asyncbuild-")}


@pytest.mark.parametrize(
    ("line", "disk"),
    [
        ("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw", True),
        ("27 1 0:50 / / rw,relatime - overlay overlay rw", False),
        ("27 1 8:1 /subvolume / rw,relatime shared:1 - btrfs /dev/sda1 rw", False),
        ("27 1 254:0 / /data rw,relatime - ext4 /dev/vda rw", False),
    ],
)
def test_a_whole_disk(line: str, *, disk: bool) -> None:
    """As proc(5) has a machine's root, a container's, one that is part of a disk, and another mount."""
    assert is_disk(f"{line}\n") is disk


def test_nothing_reserved(shm_path: Path) -> None:
    """Then everything goes."""
    files(shm_path / "root", "a/b")
    empty(NOTHING, str(shm_path / "root"))
    assert names(shm_path / "root") == set()
