"""Snapshots: what a RUN left in an overlay's upper directory, on real overlay mounts."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import ChangeSet, Kind
from asyncbuild.layers.materialise import materialise
from asyncbuild.layers.snapshot import look_below, snapshot
from support.layers import change_sets, facts, file, pack_bytes, unpack_bytes
from support.overlay import unmount, with_private_mounts
from support.scratch import scratch

_libc = ctypes.CDLL(None, use_errno=True)


class Stage:
    """Two lower directories, an upper one, and what a RUN does upon them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.lowers = [place / "lower2", place / "lower1"]
        for name in ("lower1", "lower2", "upper", "work", "merged"):
            (place / name).mkdir()

    @property
    def base(self) -> Path:
        """The lowest directory."""
        return self.place / "lower1"

    def run(self, command: Callable[[Path], object]) -> ChangeSet:
        """Mount, let ``command`` change the merged directory, unmount, take the snapshot."""
        merged = self.place / "merged"

        def work() -> None:
            lower = ":".join(map(str, self.lowers))
            options = f"lowerdir={lower},upperdir={self.place}/upper,workdir={self.place}/work"
            options += ",redirect_dir=off,metacopy=off,index=off"
            if _libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode()):
                raise OSError(ctypes.get_errno(), "mount")
            try:
                command(merged)
            finally:
                unmount(merged)

        with_private_mounts(work)
        return self.snapshot()

    def snapshot(self, exclude: tuple[str, ...] = ()) -> ChangeSet:
        """The snapshot of the upper directory as it is."""
        return snapshot(str(self.place / "upper"), [str(path) for path in self.lowers], exclude)


@pytest.fixture
def stage(shm_path: Path) -> Stage:
    """A stage with a few files below, all from the same second."""
    made = Stage(shm_path)
    for path in ("etc", "usr/lib/deep"):
        (made.base / path).mkdir(parents=True)
    for path in ("etc/conf", "etc/other", "usr/lib/a", "usr/lib/deep/b", "file"):
        (made.base / path).write_bytes(path.encode())
    (made.base / "link").symlink_to("file")
    for path in facts(made.base):
        os.utime(made.base / path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    return made


def paths(changes: ChangeSet) -> list[str]:
    """The additions' paths."""
    return [entry.path for entry in changes.additions]


def test_nothing_changed_is_nothing(stage: Stage) -> None:
    """S20: reading, and a command that does nothing, leave no change, least of all the root."""
    changes = stage.run(lambda merged: (merged / "etc/conf").read_bytes())
    assert changes == ChangeSet()
    assert len(pack_bytes(changes)[0]) == 1024


def test_a_new_file_brings_its_parents(stage: Stage) -> None:
    """Parents are entries, as in BuildKit's layers; siblings are not; the root never is."""
    changes = stage.run(lambda merged: (merged / "usr/lib/deep/new").write_text("x"))
    assert paths(changes) == ["usr", "usr/lib", "usr/lib/deep", "usr/lib/deep/new"]
    assert changes.additions[0].mtime_ns == 1_700_000_000 * 10**9


def test_copied_up_but_unchanged_is_no_change(stage: Stage) -> None:
    """Opened for writing, chmod to the same mode, touched back: nothing, not even the parents."""

    def command(merged: Path) -> None:
        (merged / "etc/conf").open("r+").close()
        (merged / "file").chmod((merged / "file").stat().st_mode)
        os.chown(merged / "link", 0, 0, follow_symlinks=False)

    changes = stage.run(command)
    assert set(facts(stage.place / "upper")) == {"etc", "etc/conf", "file", "link"}
    assert changes == ChangeSet()


def test_same_size_and_time_but_other_bytes_is_a_change(stage: Stage) -> None:
    """S35: a rewrite that puts the time back (touch -r) is seen by its content."""

    def command(merged: Path) -> None:
        path = merged / "etc/conf"
        path.write_bytes(b"ETC/CONF")
        os.utime(path, (1_700_000_000, 1_700_000_000))

    assert paths(stage.run(command)) == ["etc", "etc/conf"]


@pytest.mark.parametrize(
    "command",
    [
        lambda path: path.chmod(0o600),
        lambda path: os.chown(path, 5, 0),
        lambda path: os.chown(path, 0, 5),
        lambda path: os.utime(path, (1, 1)),
        lambda path: os.setxattr(path, "user.x", b"1"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_every_attribute_is_a_change(stage: Stage, command: Callable[[Path], object]) -> None:
    """Mode, owner, group, time, extended attributes, size."""
    assert paths(stage.run(lambda merged: command(merged / "file"))) == ["file"]


def test_a_directory_of_which_only_the_mode_changed(stage: Stage) -> None:
    """It is an entry without its content."""
    changes = stage.run(lambda merged: (merged / "usr/lib").chmod(0o700))
    assert paths(changes) == ["usr", "usr/lib"]
    assert changes.additions[1].mode == 0o700


def test_deletions(stage: Stage) -> None:
    """S35: a file, a link, a whole tree by its top alone; not what never was below."""

    def command(merged: Path) -> None:
        (merged / "file").unlink()
        (merged / "link").unlink()
        for path in ("usr/lib/deep/b", "usr/lib/a"):
            (merged / path).unlink()
        (merged / "usr/lib/deep").rmdir()
        (merged / "usr/lib").rmdir()
        (merged / "usr").rmdir()
        (merged / "temporary").write_text("x")
        (merged / "temporary").unlink()

    changes = stage.run(command)
    assert changes == ChangeSet(deletions=("file", "link", "usr"))


def test_a_whiteout_of_nothing_is_no_deletion(stage: Stage) -> None:
    """What a lower layer already hid, or never had, needs no marker."""
    upper = stage.place / "upper"
    os.mknod(upper / "never", 0o020000, 0)
    os.mknod(stage.place / "lower2/file", 0o020000, 0)
    os.mknod(upper / "file", 0o020000, 0)
    assert stage.snapshot() == ChangeSet()


def test_a_directory_that_was_made_anew_is_opaque(stage: Stage) -> None:
    """Removed and made again: the old content stays hidden, the new is all there is."""

    def command(merged: Path) -> None:
        (merged / "etc/conf").unlink()
        (merged / "etc/other").unlink()
        (merged / "etc").rmdir()
        (merged / "etc").mkdir()
        (merged / "etc/conf").write_bytes(b"etc/conf")

    changes = stage.run(command)
    assert paths(changes) == ["etc", "etc/conf"]
    assert (changes.opaque, changes.deletions) == (("etc",), ())


def test_no_marker_where_nothing_is_hidden(stage: Stage) -> None:
    """The kernel makes new directories opaque even over nothing: a layer need not say so."""

    def command(merged: Path) -> None:
        (merged / "usr/new").mkdir()
        (merged / "usr/new/f").write_text("x")
        (merged / "file").unlink()
        (merged / "file").mkdir()

    (stage.base / "empty").mkdir()
    os.setxattr(stage.place / "upper", "user.nothing", b"")
    changes = stage.run(command)
    assert paths(changes) == ["file", "usr", "usr/new", "usr/new/f"]
    assert (changes.opaque, changes.deletions) == ((), ())


def test_one_kind_becomes_another(stage: Stage) -> None:
    """Replacing needs no deletion: the new entry stands in the old one's place."""

    def command(merged: Path) -> None:
        (merged / "link").unlink()
        (merged / "link").write_text("a file now")
        (merged / "file").unlink()
        os.mkfifo(merged / "file")
        for path in ("etc/conf", "etc/other"):
            (merged / path).unlink()
        (merged / "etc").rmdir()
        (merged / "etc").symlink_to("usr")

    changes = stage.run(command)
    assert [(e.path, e.kind) for e in changes.additions] == [
        ("etc", Kind.SYMLINK),
        ("file", Kind.FIFO),
        ("link", Kind.FILE),
    ]
    assert (changes.opaque, changes.deletions) == ((), ())


def test_hardlinks_are_one_file_and_links_to_it(stage: Stage) -> None:
    """The first in order is the file, whichever was made first."""

    def command(merged: Path) -> None:
        (merged / "z").write_text("content")
        os.link(merged / "z", merged / "a")
        os.link(merged / "z", merged / "etc/m")

    changes = stage.run(command)
    kinds = {entry.path: (entry.kind, entry.link) for entry in changes.additions}
    assert kinds == {
        "a": (Kind.FILE, ""),
        "etc": (Kind.DIRECTORY, ""),
        "etc/m": (Kind.HARDLINK, "a"),
        "z": (Kind.HARDLINK, "a"),
    }


def test_a_link_to_an_unchanged_file_brings_the_file(stage: Stage) -> None:
    """A hardlink's target is in its own layer: other tools unpack each layer alone."""
    changes = stage.run(lambda merged: os.link(merged / "etc/conf", merged / "new"))
    assert [(e.path, e.kind, e.link) for e in changes.additions] == [
        ("etc", Kind.DIRECTORY, ""),
        ("etc/conf", Kind.FILE, ""),
        ("new", Kind.HARDLINK, "etc/conf"),
    ]


def test_sockets_are_nothing(stage: Stage) -> None:
    """A layer cannot hold one."""

    def command(merged: Path) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(merged / "socket"))

    assert stage.run(command) == ChangeSet()


def test_excluded_names_are_left_out(stage: Stage) -> None:
    """Whatever is below them too, whiteouts included."""
    upper = stage.place / "upper"
    (upper / "proc/sys").mkdir(parents=True)
    (upper / "etc").mkdir()
    os.mknod(upper / "etc/conf", 0o020000, 0)
    (upper / "etc/new").write_text("x")
    changes = stage.snapshot(exclude=("proc", "etc/conf"))
    assert paths(changes) == ["etc", "etc/new"]
    assert changes.deletions == ()


def test_overlay_attributes_stay_here(stage: Stage) -> None:
    """Nothing of overlayfs's own bookkeeping reaches a layer; other attributes do."""

    def command(merged: Path) -> None:
        os.setxattr(merged / "etc", "user.keep", b"1")
        (merged / "etc/conf").write_text("changed")

    changes = stage.run(command)
    assert [entry.xattrs for entry in changes.additions] == [(("user.keep", b"1"),), ()]


def test_names_of_any_bytes_and_deep_trees(stage: Stage) -> None:
    """A name that is not UTF-8, and more directories in each other than Python recurses."""
    upper = stage.place / "upper"
    (upper / os.fsdecode(b"\xff\xfe")).write_text("x")
    deep = str(upper)
    for _ in range(1500):
        deep += "/d"
        os.mkdir(deep)
    changes = stage.snapshot()
    subprocess.run(["rm", "-r", upper / "d"], check=True)  # too deep for shutil
    assert len(changes.additions) == 1501
    assert changes.additions[-1].path == os.fsdecode(b"\xff\xfe")


def test_order_is_that_of_change_sets(stage: Stage) -> None:
    """By components: ``a/b`` before ``a-b``."""
    upper = stage.place / "upper"
    (upper / "a").mkdir()
    for name in ("a/b", "a-b", "a.c", "B"):
        (upper / name).write_text("x")
    changes = stage.snapshot()
    assert changes == ChangeSet.of(changes.additions)
    assert paths(changes) == ["B", "a", "a/b", "a-b", "a.c"]


def test_what_lies_below_is_merged_as_overlayfs_merges(shm_path: Path) -> None:
    """The topmost name wins, a whiteout or a file ends the merge, an opaque directory too."""
    one, two, three = (shm_path / name for name in ("1", "2", "3"))
    for path in (one / "d", two / "d", three / "d", one / "hidden", two / "f", three / "g"):
        path.mkdir(parents=True)
    (one / "f").write_text("x")
    os.mknod(two / "hidden", 0o020000, 0)
    os.mknod(two / "g", 0o020000, 0)
    os.setxattr(two / "d", "trusted.overlay.opaque", b"y")
    lowers = [str(path) for path in (one, two, three)]
    found = look_below(lowers, "d")
    assert found is not None
    assert found.merged == [str(one / "d"), str(two / "d")]
    hidden = look_below(lowers, "hidden")
    assert hidden is not None
    assert hidden.merged == [str(one / "hidden")]
    top = look_below(lowers, "f")
    assert top is not None
    assert (top.where, top.merged) == (str(one / "f"), [])
    assert look_below(lowers, "g") is None
    assert look_below(lowers, "missing") is None


def test_what_cannot_be_read_is_said(shm_path: Path) -> None:
    """An upper directory that is gone."""
    with pytest.raises(InputError, match="gone"):
        snapshot(str(shm_path / "gone"), [])


@settings(max_examples=60)
@given(change_sets(), change_sets())
def test_a_snapshot_applied_gives_the_merged_tree(below: ChangeSet, above: ChangeSet) -> None:
    """Whatever lies above what, the upper directory's snapshot unpacks to an equivalent one."""
    with scratch() as place:
        for name in ("below", "above", "again"):
            (place / name).mkdir()
        materialise(below, str(place / "below"))
        materialise(above, str(place / "above"))
        changes = snapshot(str(place / "above"), [str(place / "below")])
        again = snapshot_of_packed(changes, place)
        assert pack_bytes(again)[0] == pack_bytes(changes)[0]


def snapshot_of_packed(changes: ChangeSet, place: Path) -> ChangeSet:
    """Pack, unpack and take the snapshot again over the same lower directory."""
    blob, _ = pack_bytes(changes)
    unpack_bytes(blob, place / "unpacked")
    return snapshot(str(place / "unpacked"), [str(place / "below")])


def test_materialised_and_packed_are_the_same_layer(shm_path: Path) -> None:
    """A COPY's directory for a later RUN, and what other machines unpack, are one thing."""
    changes = ChangeSet.of(
        [file("a/f", b"x" * 100_000, 0o755, uid=3), file("b")], ["a/gone"], ["c"]
    )
    (shm_path / "made").mkdir()
    made = materialise(changes, str(shm_path / "made"))
    blob, _ = pack_bytes(changes)
    unpacked = unpack_bytes(blob, shm_path / "unpacked")
    assert facts(shm_path / "made") == facts(shm_path / "unpacked")
    assert made == unpacked.facts
