"""Unpacking: what stands in the directory afterwards, what is refused, and what is never touched."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.errors import IntegrityError, LayerError, StoreError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.unpack import UnpackJob, unpack
from support.layers import (
    directory,
    facts,
    hardlink,
    member,
    opaque_directories,
    pieces,
    symlink,
    tar,
    unpack_bytes,
    whiteouts,
)
from support.overlay import exchange, mount_tmpfs, unmount, with_private_mounts
from support.scratch import scratch

_REG, _DIR, _LNK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


def done(root: Path, *members: bytes) -> UnpackedFacts:
    """Unpack a layer of ``members`` into the new directory ``root``."""
    return unpack_bytes(tar(*members), root).facts


# --- attributes -------------------------------------------------------------------------------------


def test_every_attribute_of_every_kind(shm_path: Path) -> None:
    """Types, modes with set-user-id, owners, times, devices, attributes: all as the tar says."""
    root = shm_path / "out"
    cap = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    pax = {
        "SCHILY.xattr.user.note": "hi",
        "SCHILY.xattr.security.capability": cap.decode("utf-8", "surrogateescape"),
    }
    done(
        root,
        directory("d", mode=0o2775, uid=7, gid=8, mtime=100),
        member("d/suid", data=b"#!", mode=0o4755, uid=5, gid=6, mtime=200.25, pax_headers=pax),
        member("d/none", mode=0, mtime=1),
        symlink("d/link", "/abs", uid=3, gid=4, mtime=300),
        member("d/fifo", tarfile.FIFOTYPE, mode=0o622, uid=9, mtime=400),
        member("d/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3, mtime=500),
        member(
            "d/disk", tarfile.BLKTYPE, mode=0o660, gid=6, devmajor=259, devminor=70000, mtime=600
        ),
    )
    found = {path: fact[:8] for path, fact in facts(root).items()}
    second = 10**9
    assert found == {
        "d": (_DIR, 0o2775, 7, 8, 100 * second, b"", "", 0),
        "d/suid": (_REG, 0o4755, 5, 6, 200_250_000_000, b"#!", "", 0),
        "d/none": (_REG, 0, 0, 0, second, b"", "", 0),
        "d/link": (_LNK, 0o777, 3, 4, 300 * second, b"", "/abs", 0),
        "d/fifo": (stat.S_IFIFO, 0o622, 9, 0, 400 * second, b"", "", 0),
        "d/null": (stat.S_IFCHR, 0o666, 0, 0, 500 * second, b"", "", os.makedev(1, 3)),
        "d/disk": (stat.S_IFBLK, 0o660, 0, 6, 600 * second, b"", "", os.makedev(259, 70000)),
    }
    xattrs = dict(facts(root)["d/suid"].xattrs)
    assert xattrs["user.note"] == b"hi"
    assert xattrs["security.capability"][:12] == cap[:12]


def test_directory_times_survive_what_is_put_into_them(shm_path: Path) -> None:
    """S09: times are final, also of directories that were filled after their entry, and of links."""
    root = shm_path / "out"
    done(
        root,
        directory("a", mtime=10),
        directory("a/b", mtime=20),
        member("a/b/late", data=b"x", mtime=30),
        symlink("a/link", "b", mtime=40),
    )
    times = {path: fact.mtime_ns // 10**9 for path, fact in facts(root).items()}
    assert times == {"a": 10, "a/b": 20, "a/b/late": 30, "a/link": 40}


def test_read_only_directories_can_be_filled(shm_path: Path) -> None:
    """A directory of mode 0 is given its mode at the end."""
    root = shm_path / "out"
    done(root, directory("d", mode=0), member("d/f", data=b"x"))
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0


def test_the_root_has_attributes_if_the_tar_says_so(shm_path: Path) -> None:
    """``./`` is the root's own entry; without one the root is an implicit directory."""
    named = done(shm_path / "named", directory("./", mode=0o711, uid=5, mtime=9), member("./f"))
    status = (shm_path / "named").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o711, 5, 9)
    assert named.implicit_directories == ()
    unnamed = done(shm_path / "unnamed", member("f"))
    status = (shm_path / "unnamed").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o755, 0, 0)
    assert unnamed.implicit_directories == ("",)


def test_the_umask_changes_nothing(shm_path: Path) -> None:
    """Modes are the tar's under any mask of the process."""
    previous = os.umask(0o077)
    try:
        done(shm_path / "out", directory("d", mode=0o777), member("d/f", mode=0o666))
    finally:
        os.umask(previous)
    assert {p: f.mode for p, f in facts(shm_path / "out").items()} == {"d": 0o777, "d/f": 0o666}


def test_implicit_parents_are_recorded(shm_path: Path) -> None:
    """A parent without an entry is 0755 of root's, and said to be one, unless its entry comes later."""
    root = shm_path / "out"
    found = done(root, member("a/b/c/f"), directory("a/b", uid=5))
    assert found.implicit_directories == ("", "a", "a/b/c")
    assert facts(root)["a/b/c"][:5] == (_DIR, 0o755, 0, 0, 0)
    assert facts(root)["a/b"].uid == 5


def test_entries_and_size_are_counted(shm_path: Path) -> None:
    """The facts count tar entries and the bytes of files."""
    found = done(
        shm_path / "out", directory("d"), member("d/f", data=b"12345"), hardlink("e", "d/f")
    )
    assert (found.entries, found.size) == (3, 5)


def test_mtab_is_a_file_like_any_other(shm_path: Path) -> None:
    """S33: /etc/mtab of an image is kept."""
    done(shm_path / "out", member("etc/mtab", data=b"none"))
    assert (shm_path / "out/etc/mtab").read_bytes() == b"none"


# --- one entry over another -------------------------------------------------------------------------

_THINGS: dict[str, Callable[[str], bytes]] = {
    "file": lambda name: member(name, data=b"new", mtime=5),
    "directory": lambda name: directory(name, mtime=5),
    "link to a directory": lambda name: symlink(name, "other"),
    "link to nothing": lambda name: symlink(name, "nowhere"),
    "fifo": lambda name: member(name, tarfile.FIFOTYPE),
    "device": lambda name: member(name, tarfile.CHRTYPE, devmajor=1, devminor=3),
    "hardlink": lambda name: hardlink(name, "other/file"),
}


@pytest.mark.parametrize("first", _THINGS)
@pytest.mark.parametrize("second", _THINGS)
def test_any_kind_over_any_kind(first: str, second: str, shm_path: Path) -> None:
    """S25: the later entry stands; nothing is followed; only a directory over one keeps its content."""
    root = shm_path / "out"
    other = [directory("other", mtime=7), member("other/file", data=b"old", mtime=7)]
    inside = [member("x/inside", data=b"i")] if first == "directory" else []
    done(root, *other, _THINGS[first]("x"), *inside, _THINGS[second]("x"))
    alone = shm_path / "alone"
    kept = inside if first == second == "directory" else []
    done(alone, *other, *kept, _THINGS[second]("x"))
    found, expected = facts(root), facts(alone)
    if second == "directory" and first != "directory":
        assert found.pop("x").xattrs == (("trusted.overlay.opaque", b"y"),)
        expected.pop("x")
    assert found == expected


def test_replacing_one_name_of_a_file_leaves_its_siblings(shm_path: Path) -> None:
    """S25: a new file, not new bytes in the old one."""
    root = shm_path / "out"
    done(root, member("a", data=b"old"), hardlink("b", "a"), member("a", data=b"new"))
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"new", b"old")


def test_a_hardlink_over_itself_is_nothing(shm_path: Path) -> None:
    """S25: neither by its own name nor by another name of the same inode is a file lost."""
    root = shm_path / "out"
    done(
        root,
        member("a", data=b"x"),
        hardlink("b", "a"),
        hardlink("a", "a"),
        hardlink("a", "./b"),
        symlink("here", "."),
        hardlink("a", "here/a"),
    )
    assert (root / "a").stat().st_ino == (root / "b").stat().st_ino
    assert (root / "a").stat().st_nlink == 2


def test_a_directory_tree_is_replaced_whole(shm_path: Path) -> None:
    """A file over a directory removes everything in it, and its entries are forgotten."""
    root = shm_path / "out"
    found = done(
        root,
        member("d/deep/er/f", data=b"x"),
        symlink("d/link", "deep"),
        member("d/.wh.gone"),
        hardlink("d/outside", "lower"),
        member("d", data=b"now a file"),
    )
    assert set(facts(root)) == {"d"}
    assert found.implicit_directories == ("",)
    assert found.outside_links == ()


# --- links on the way -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["usr/bin", "/usr/bin", "../usr/bin", "usr/../../usr/./bin", "l2"]
)
def test_a_name_below_a_link_reaches_its_target_inside_the_root(
    target: str, shm_path: Path
) -> None:
    """S26: as after a chroot, whether the link is relative, absolute or tries to climb out."""
    root = shm_path / "out"
    found = done(
        root,
        directory("usr/bin"),
        symlink("l2", "usr/bin"),
        symlink("bin", target),
        member("bin/sh", data=b"sh"),
        member("bin/sub/tool", data=b"tool"),
        hardlink("bin/dash", "bin/sh"),
        member("bin/.wh.old"),
    )
    assert (root / "usr/bin/sh").read_bytes() == b"sh"
    assert (root / "usr/bin/sub/tool").read_bytes() == b"tool"
    assert (root / "usr/bin/dash").stat().st_ino == (root / "usr/bin/sh").stat().st_ino
    assert whiteouts(root) == {"usr/bin/old"}
    assert found.implicit_directories == ("", "usr", "usr/bin/sub")
    assert (root / "bin").is_symlink()


def test_an_absolute_link_starts_at_the_root(shm_path: Path) -> None:
    """Also one that stands deep in the tree."""
    root = shm_path / "out"
    done(root, directory("d/e"), symlink("d/e/l", "/usr"), member("d/e/l/f", data=b"x"))
    assert (root / "usr/f").read_bytes() == b"x"
    assert not (root / "d/e/usr").exists()


def test_a_dangling_link_on_the_way_has_its_target_made(shm_path: Path) -> None:
    """The target may be a directory of a lower layer: it becomes an implicit one here."""
    root = shm_path / "out"
    found = done(root, symlink("a", "/var/lib/a"), member("a/f", data=b"x"))
    assert (root / "var/lib/a/f").read_bytes() == b"x"
    assert found.implicit_directories == ("", "var", "var/lib", "var/lib/a")


def test_a_link_that_changes_is_looked_at_again(shm_path: Path) -> None:
    """A directory that was opened through a link is not kept for the link's next target."""
    root = shm_path / "out"
    done(
        root,
        directory("one"),
        directory("two"),
        symlink("l", "one"),
        member("l/f", data=b"1"),
        symlink("l", "two"),
        member("l/f", data=b"2"),
        directory("l"),
        member("l/f", data=b"3"),
    )
    assert [(root / p / "f").read_bytes() for p in ("one", "two", "l")] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "members",
    [
        [symlink("a", "a"), member("a/f")],
        [symlink("a", "b"), symlink("b", "a"), member("a/f")],
        [symlink("a", "a/a"), member("a/f")],
        [member("a"), member("a/f")],
        [member("a"), symlink("l", "a"), member("l/f")],
        [directory("d"), hardlink("h", "d")],
        [member("d/f"), hardlink("d", "d/f")],
        [hardlink("h", ".")],
        [member("./")],
        [symlink("./", "x")],
    ],
)
def test_what_cannot_be_is_an_error_of_the_layer(members: list[bytes], shm_path: Path) -> None:
    """Loops of links, names below files, links to directories: said clearly, not by Python."""
    members = [m.replace(b"./\0", b".\0\0") if m.startswith(b"./\0") else m for m in members]
    with pytest.raises(LayerError):
        done(shm_path / "out", *members)


# --- hardlinks --------------------------------------------------------------------------------------


def test_a_link_that_led_here_is_replaced(shm_path: Path) -> None:
    """Files in one directory by way of a link in it: when a file replaces the link, that way is gone."""
    members = (directory("a"), symlink("a/l", "."), member("a/l/f"), member("a/l/l", data=b"x"))
    done(shm_path / "one", *members)
    assert (shm_path / "one/a/l").read_bytes() == b"x"
    with pytest.raises(LayerError, match="no directory"):
        done(shm_path / "two", *members, member("a/l/g"))


def test_many_files_of_few_kinds(shm_path: Path) -> None:
    """Each gets its own mode, owner and time though its neighbours have others, as GNU tar does it."""
    wanted = [
        (0o100 * number % 0o10000 | number % 8, number % 3, number % 5, number // 7)
        for number in range(200)
    ]
    members = [
        member(
            f"{number % 4}/{number}", data=b"x" * number, mode=mode, uid=uid, gid=gid, mtime=mtime
        )
        for number, (mode, uid, gid, mtime) in enumerate(wanted)
    ]
    ours = done(shm_path / "ours", *members)
    assert (ours.entries, ours.size) == (200, sum(range(200)))
    theirs = shm_path / "theirs"
    theirs.mkdir()
    command = [
        "tar",
        "--same-owner",
        "--same-permissions",
        "--numeric-owner",
        "-C",
        str(theirs),
        "-x",
    ]
    subprocess.run(command, input=tar(*members), check=True)
    files = {path: fact for path, fact in facts(theirs).items() if "/" in path}
    assert {path: fact for path, fact in facts(shm_path / "ours").items() if "/" in path} == files


def test_hardlinks_stay_inside(shm_path: Path) -> None:
    """S15: a target is a name from the root, however it is written."""
    root = shm_path / "out"
    done(
        root,
        member("d/f", data=b"x"),
        hardlink("a", "d/f"),
        hardlink("b", "/d/f"),
        hardlink("c", "./d/f"),
        hardlink("e/new", "a"),
    )
    inode = (root / "d/f").stat().st_ino
    assert {(root / p).stat().st_ino for p in ("a", "b", "c", "e/new")} == {inode}


def test_a_hardlink_to_a_link_is_that_link(shm_path: Path) -> None:
    """The last component of a target is not followed."""
    root = shm_path / "out"
    done(root, member("f"), symlink("l", "f"), hardlink("h", "l"))
    assert os.readlink(root / "h") == "f"


def test_a_link_out_of_the_layer_is_recorded(shm_path: Path) -> None:
    """Its target is in a lower layer: nothing is made, and whoever stacks the layers is told."""
    root = shm_path / "out"
    found = done(
        root,
        hardlink("usr/bin/x", "usr/bin/y"),
        member("was", data=b"file"),
        hardlink("was", "usr/lib/z"),
        hardlink("gone", "under"),
        member(".wh.under"),
        hardlink("self", "self"),
        hardlink("later", "lower"),
        member("later", data=b"own"),
    )
    assert found.outside_links == (
        ("gone", "under"),
        ("usr/bin/x", "usr/bin/y"),
        ("was", "usr/lib/z"),
    )
    assert found.implicit_directories == ("", "usr", "usr/bin")
    assert set(facts(root)) == {"usr", "usr/bin", "under", "later"}


def test_a_link_to_a_whiteout_of_the_same_layer_is_outside(shm_path: Path) -> None:
    """The hidden file itself is meant, not the device that hides it."""
    root = shm_path / "out"
    found = done(root, member(".wh.f"), hardlink("kept", "f"))
    assert found.outside_links == (("kept", "f"),)
    assert whiteouts(root) == {"f"}


def test_a_link_before_its_target(shm_path: Path) -> None:
    """S15: made at the end of the layer."""
    root = shm_path / "out"
    found = done(root, hardlink("d/link", "file"), member("file", data=b"x"))
    assert found.outside_links == ()
    assert (root / "d/link").stat().st_ino == (root / "file").stat().st_ino


# --- whiteouts --------------------------------------------------------------------------------------


def test_whiteouts_and_opaque_directories(shm_path: Path) -> None:
    """S34: in overlayfs's own format; parents are implicit; nothing of the markers' names is left."""
    root = shm_path / "out"
    found = done(
        root,
        member("a/.wh.gone"),
        directory("b", uid=5),
        member("b/.wh..wh..opq"),
        member("b/new", data=b"x"),
        member("c/.wh..wh..opq"),
    )
    assert whiteouts(root) == {"a/gone"}
    assert opaque_directories(root) == {"b", "c"}
    assert set(facts(root)) == {"a", "a/gone", "b", "b/new", "c"}
    assert found.implicit_directories == ("", "a", "c")
    assert facts(root)["b"].uid == 5


@pytest.mark.parametrize("order", [1, -1])
def test_content_wins_over_its_whiteout(order: int, shm_path: Path) -> None:
    """Before it or after it; a directory becomes opaque, for the old content is hidden all the same."""
    root = shm_path / "out"
    pairs = [
        [member(".wh.f"), member("f", data=b"x")],
        [member(".wh.d"), directory("d")],
        [member(".wh.i"), member("i/f")],
        [member(".wh.l"), symlink("l", "f")],
    ]
    found = done(root, *(m for pair in pairs for m in pair[::order]))
    assert whiteouts(root) == set()
    assert opaque_directories(root) == {"d", "i"}
    assert set(facts(root)) == {"f", "d", "i", "i/f", "l"}
    assert found.implicit_directories == ("",)  # "i" is new: it takes nothing from below


def test_an_opaque_marker_of_the_root(shm_path: Path) -> None:
    """It hides all lower layers."""
    done(shm_path / "out", member(".wh..wh..opq"), member("f"))
    assert opaque_directories(shm_path / "out") == {""}


def test_names_that_were_aufs_own_are_nothing(shm_path: Path) -> None:
    """Docker's rule for ``.wh..wh.`` names, the opaque marker apart."""
    root = shm_path / "out"
    done(
        root,
        directory(".wh..wh.plnk"),
        member(".wh..wh.plnk/1.2", data=b"x"),
        member(".wh..wh.aufs"),
        member("f"),
    )
    assert set(facts(root)) == {"f"}


@pytest.mark.parametrize(
    "name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.d/f"]
)
def test_whiteouts_of_no_name(name: str, shm_path: Path) -> None:
    """An empty name, the directory itself and its parent cannot be hidden."""
    with pytest.raises(LayerError):
        done(shm_path / "out", directory("d"), member(name))


def test_whiteouts_of_whiteouts(shm_path: Path) -> None:
    """A marker that is repeated is one; one that names a marker hides nothing, and no marker is left."""
    root = shm_path / "out"
    done(
        root,
        member(".wh.twice"),
        member(".wh.twice"),
        member(".wh..wh.again"),
        member("d/.wh..wh..opq"),
        member("d/.wh..wh..opq"),
        member("d/.wh..wh..wh.x"),
        directory(".wh.dir"),
    )
    assert whiteouts(root) == {"twice", "dir"}
    assert opaque_directories(root) == {"d"}
    assert set(facts(root)) == {"twice", "dir", "d"}


@pytest.mark.parametrize(
    "pax",
    [
        {"SCHILY.xattr.user.big": "x" * (64 << 10) + "x"},
        {f"SCHILY.xattr.user.{'n' * 300}": "x"},
    ],
    ids=["a value beyond 64 KiB", "a name beyond 255 bytes"],
)
def test_attributes_that_no_file_can_have(pax: dict[str, str], shm_path: Path) -> None:
    """The layer's fault, and not the disk's."""
    with pytest.raises(LayerError):
        done(shm_path / "out", member("f", data=b"x", pax_headers=pax))


def test_an_overlay_attribute_is_never_taken_from_a_layer(shm_path: Path) -> None:
    """A layer that sets one could redirect into others; labels of another machine go too."""
    root = shm_path / "out"
    names = (
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "security.selinux",
    )
    pax = {f"SCHILY.xattr.{name}": "y" for name in names}
    done(
        root,
        directory("d", pax_headers=pax),
        member("f", pax_headers=pax),
        member("g", pax_headers={}),
    )
    assert {fact.xattrs for fact in facts(root).values()} == {()}


def test_a_device_that_is_a_whiteout_is_hostile(shm_path: Path) -> None:
    """Character device 0/0 would hide a file of a lower layer without a whiteout's rules."""
    with pytest.raises(LayerError, match="0/0"):
        done(shm_path / "out", member("x", tarfile.CHRTYPE, devmajor=0, devminor=0))


# --- nothing outside is touched ---------------------------------------------------------------------

_ESCAPES = {
    "dots": [member("../sentinel/f", data=b"evil")],
    "dots in the middle": [directory("a"), member("a/../../sentinel/f", data=b"evil")],
    "absolute": [member("/sentinel/f", data=b"evil")],
    "absolute link": [symlink("a", "{sentinel}"), member("a/f", data=b"evil")],
    "relative link": [symlink("a", "../sentinel"), member("a/f", data=b"evil")],
    "link of links": [symlink("b", ".."), symlink("a", "b/sentinel"), member("a/f", data=b"evil")],
    "link to the root": [symlink("a", "/"), member("a/a/a{sentinel}/f", data=b"evil")],
    "link replaced by a file": [symlink("f", "{sentinel}/f"), member("f", data=b"evil")],
    "directory over a link": [symlink("d", "{sentinel}"), directory("d", mode=0o777, uid=9)],
    "hardlink out": [hardlink("h", "../sentinel/f"), member("h", data=b"evil")],
    "hardlink through a link": [
        symlink("a", "{sentinel}"),
        hardlink("h", "a/f"),
        member("h", data=b"evil"),
    ],
    "hardlink to a link": [
        symlink("l", "{sentinel}/f"),
        hardlink("h", "l"),
        member("h", data=b"evil", mode=0o777),
    ],
    "whiteout through a link": [symlink("a", "{sentinel}"), member("a/.wh.f")],
    "opaque through a link": [symlink("a", "{sentinel}"), member("a/.wh..wh..opq")],
    "whiteout of dots": [directory("d"), member("d/.wh...")],
    "replaced tree through a link": [
        symlink("a", "{sentinel}/.."),
        member("a/sentinel", data=b"evil"),
    ],
    "fifo through a link": [symlink("a", "{sentinel}"), member("a/f", tarfile.FIFOTYPE)],
    "mode through a link": [symlink("a", "{sentinel}/f"), directory("a", mode=0o777)],
    "swap": [
        directory("d"),
        member("d/f"),
        symlink("d", "{sentinel}"),
        member("d/f", data=b"evil"),
    ],
    "swap back": [
        symlink("d", "{sentinel}"),
        directory("d"),
        symlink("d", "{sentinel}"),
        member("d/f", data=b"evil"),
    ],
}


@pytest.mark.parametrize("case", _ESCAPES)
def test_nothing_outside_the_root_is_touched(case: str, shm_path: Path) -> None:
    """Each attack is refused or lands inside; the sentinel beside the root is as it was."""
    sentinel = shm_path / "sentinel"
    sentinel.mkdir()
    (sentinel / "f").write_bytes(b"good")
    os.utime(sentinel / "f", (1, 1))
    os.utime(sentinel, (1, 1))
    before = facts(shm_path)
    members = [_placed(m, str(sentinel)) for m in _ESCAPES[case]]
    with suppress(LayerError):
        done(shm_path / "out", *members)
    after = {path: fact for path, fact in facts(shm_path).items() if path.split("/")[0] != "out"}
    assert after == before


def test_a_race_with_whoever_writes_there_too(shm_path: Path) -> None:
    """A directory that is swapped for a link out, again and again, while entries are put below it: each is
    opened as what it is, and nothing is followed.
    """
    sentinel = shm_path / "sentinel"
    sentinel.mkdir()
    (sentinel / "f").write_bytes(b"good")
    os.utime(sentinel / "f", (1, 1))
    os.utime(sentinel, (1, 1))
    before = facts(sentinel)
    members = [
        entry
        for number in range(300)
        for entry in (
            directory("a"),
            directory("a/b"),
            member(f"a/b/{number}", data=b"evil"),
            member("a/b/f", data=b"evil", mode=0o777),
            directory(f"a/b/d{number}", mode=0o777, uid=9),
            hardlink(f"a/b/h{number}", "a/b/f"),
            member("a/b/.wh.f"),
            symlink("a/b/l", "f"),
        )
    ]
    swaps = sum(_raced(shm_path / f"out-{number}", sentinel, members) for number in range(4))
    assert swaps > 0
    assert facts(sentinel) == before
    assert os.stat(sentinel).st_mtime == 1


def _raced(root: Path, sentinel: Path, members: list[bytes]) -> int:
    """Unpack below ``root`` while ``a/b`` changes places with a link out; how often it did."""
    over = threading.Event()
    swaps: list[None] = []
    link = root.with_suffix(".link")
    link.symlink_to(sentinel)

    def swap() -> None:
        while not over.is_set():
            with suppress(OSError):
                exchange(link, root / "a/b")
                swaps.append(None)

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        with suppress(LayerError, StoreError, OSError):
            done(root, *members)
    finally:
        over.set()
        racer.join()
    return len(swaps)


def _placed(header: bytes, sentinel: str) -> bytes:
    """A member with the sentinel's real path where its name or link says so."""
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024))) as archive:
        (info,) = archive.getmembers()
        data = archive.extractfile(info).read() if info.isreg() else b""  # type: ignore[union-attr]
    info.name = info.name.replace("{sentinel}", sentinel)
    info.linkname = info.linkname.replace("{sentinel}", sentinel)
    return info.tobuf(tarfile.PAX_FORMAT) + data.ljust(-(-len(data) // 512) * 512, b"\0")


_NAMES = st.sampled_from(
    ["a", "b", "a/b", "b/a", "a/a/b", "../a", "/a", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", "./"]
)
_TARGETS = st.sampled_from(
    ["a", "b", "a/b", "..", "../..", "/", "/a", ".", "../sentinel", "/../sentinel/f", "a/.."]
)


@st.composite
def _hostile(draw: st.DrawFn) -> bytes:
    name, target = draw(_NAMES), draw(_TARGETS)
    kind = draw(
        st.sampled_from(
            [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
        )
    )
    data = draw(st.binary(max_size=3)) if kind == tarfile.REGTYPE else b""
    return member(name, kind, data, linkname=target, mode=draw(st.sampled_from([0, 0o777, 0o4755])))


@settings(max_examples=300)
@given(st.lists(_hostile(), max_size=12))
def test_no_sequence_of_entries_escapes(members: list[bytes]) -> None:
    """Any order of names, links and markers either unpacks below the root or is a LayerError."""
    with scratch() as place:
        sentinel = place / "sentinel"
        sentinel.mkdir()
        (sentinel / "f").write_bytes(b"good")
        os.utime(sentinel, (1, 1))
        before = facts(place)
        with suppress(LayerError):
            done(place / "out", *members)
        after = {p: fact for p, fact in facts(place).items() if p.split("/")[0] != "out"}
    assert after == before


# --- verification -----------------------------------------------------------------------------------


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "gzip members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
    "gzip, padded": lambda data: gzip.compress(data) + bytes(600),
    "zstd": _zstd,
    "zstd frames": lambda data: (
        _zstd(data[:700]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + _zstd(data[700:])
    ),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("codec", _CODECS)
def test_every_compression_is_recognised(codec: str, shm_path: Path) -> None:
    """By its first bytes; the diff id is that of the tar."""
    content = tar(member("f", data=random.Random(1).randbytes(5000)))
    blob = _CODECS[codec](content)
    found = unpack_bytes(blob, shm_path / "out", cut=[1, 2, 700], diff_id=DiffId.of(content))
    assert found.diff_id == DiffId.of(content)
    assert len((shm_path / "out/f").read_bytes()) == 5000


@pytest.mark.parametrize("magic", [b"BZh", b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
def test_a_plain_archive_may_begin_with_any_name(magic: bytes, shm_path: Path) -> None:
    """The first bytes of an archive are a file's name, and that may be what a codec begins with."""
    name = magic.rstrip(b"\0").decode("utf-8", "surrogateescape")
    content = tar(member(name, data=b"x" * 1500))
    found = unpack_bytes(content, shm_path / "out", cut=[1, 6, 300], diff_id=DiffId.of(content))
    assert found.diff_id == DiffId.of(content)
    assert (shm_path / "out" / name).read_bytes() == b"x" * 1500


@settings(max_examples=40)
@given(st.sampled_from(sorted(_CODECS)), st.lists(st.integers(0, 6000), max_size=8))
def test_chunking_of_the_blob_is_irrelevant(codec: str, cut: list[int]) -> None:
    """However the blob comes in, the same files come out."""
    blob = _CODECS[codec](tar(member("f", data=b"x" * 1500), directory("d"), symlink("d/l", "f")))
    with scratch() as place:
        whole = unpack_bytes(blob, place / "whole")
        assert unpack_bytes(blob, place / "cut", cut=cut) == whole
        assert facts(place / "cut") == facts(place / "whole")


@pytest.mark.parametrize("codec", _CODECS)
@pytest.mark.parametrize("damage", ["a flipped bit", "truncated", "longer"])
def test_damage_in_transit_is_an_integrity_error(codec: str, damage: str, shm_path: Path) -> None:
    """Whatever else the damage breaks, the digest is what is reported: trying again may help."""
    blob = _CODECS[codec](tar(member("f", data=random.Random(2).randbytes(3000))))
    flipped = bytearray(blob)
    flipped[len(blob) // 2] ^= 1
    damaged = {
        "a flipped bit": bytes(flipped),
        "truncated": blob[: len(blob) // 2],
        "longer": blob + b"x",
    }
    (shm_path / "out").mkdir()
    job = UnpackJob(str(shm_path / "out"), Digest.of(blob), len(blob))
    with pytest.raises(IntegrityError):
        unpack(job, [damaged[damage]])


@pytest.mark.parametrize("codec", ["gzip", "xz", "bzip2", "zstd"])
def test_a_bad_stream_with_the_right_digest_is_a_layer_error(codec: str, shm_path: Path) -> None:
    """Trying again would not help: the layer itself is broken."""
    blob = _CODECS[codec](tar(member("f", data=random.Random(2).randbytes(3000))))
    damaged = [blob[: len(blob) // 2], blob[:100] + b"?" + blob[101:]]
    if codec != "zstd":  # where the library ignores what it does not know behind a frame
        damaged.append(blob + b"garbage")
    for number, bad in enumerate(damaged):
        with pytest.raises(LayerError, match=Digest.of(bad).short):
            unpack_bytes(bad, shm_path / f"out{number}")


def test_the_diff_id_must_match(shm_path: Path) -> None:
    """The configuration's word is checked, and the error names both."""
    content = tar(member("f"))
    with pytest.raises(IntegrityError, match=DiffId.of(content).hex):
        unpack_bytes(content, shm_path / "out", diff_id=DiffId.of(b"other"))


def test_what_follows_the_archive_is_hashed_too(shm_path: Path) -> None:
    """Record padding of GNU tar belongs to the diff id."""
    content = tar(member("f")) + bytes(10240)
    assert unpack_bytes(content, shm_path / "out").diff_id == DiffId.of(content)


def test_sha512_is_a_digest_as_well(shm_path: Path) -> None:
    """The image specification registers both."""
    content = tar(member("f"))
    (shm_path / "out").mkdir()
    digest = Digest("sha512", hashlib.sha512(content).hexdigest())
    assert (
        unpack(UnpackJob(str(shm_path / "out"), digest, len(content)), [content]).digest == digest
    )


def test_an_empty_blob_is_an_empty_layer(shm_path: Path) -> None:
    """As Docker takes it; so is an archive of nothing."""
    assert unpack_bytes(b"", shm_path / "a").facts.entries == 0
    assert unpack_bytes(bytes(1024), shm_path / "b").facts.entries == 0
    assert unpack_bytes(gzip.compress(bytes(1024)), shm_path / "c").facts.entries == 0


def test_the_blob_can_be_written_on_the_way(shm_path: Path) -> None:
    """One write, made where the bytes are hashed."""
    blob = gzip.compress(tar(member("f", data=b"x" * 9000)))
    (shm_path / "out").mkdir()
    tee = shm_path / "blob"
    unpack(
        UnpackJob(str(shm_path / "out"), Digest.of(blob), len(blob), None, str(tee)),
        [blob[:9], blob[9:]],
    )
    assert tee.read_bytes() == blob


def test_a_destination_in_use_is_refused(shm_path: Path) -> None:
    """A layer needs a directory of its own: what is there would be mixed with it."""
    (shm_path / "out").mkdir()
    (shm_path / "out/old").touch()
    blob = tar(member("f"))
    with pytest.raises(StoreError, match="not empty"):
        unpack(UnpackJob(str(shm_path / "out"), Digest.of(blob), len(blob)), [blob])


@pytest.mark.parametrize("tee", [True, False])
def test_a_full_disk_is_the_stores_error(shm_path: Path, *, tee: bool) -> None:
    """Whether the files or the copy of the blob fill it; many small files or one large."""
    blob = tar(*(member(f"f{i}", data=random.Random(i).randbytes(9000)) for i in range(200)))
    blob_path = shm_path / "small/blob" if tee else None
    (shm_path / "small").mkdir()

    def work() -> None:
        mount_tmpfs(shm_path / "small", "size=1m")
        try:
            out = shm_path / ("out" if tee else "small/out")
            out.mkdir()
            job = UnpackJob(
                str(out), Digest.of(blob), len(blob), None, str(blob_path) if tee else None
            )
            with pytest.raises(StoreError, match="the disk is full"):
                unpack(job, pieces(blob, range(0, len(blob), 100_000)))
        finally:
            unmount(shm_path / "small")

    with_private_mounts(work)
    assert "ahead" not in {thread.name for thread in threading.enumerate()}


# --- GNU tar as an independent check ----------------------------------------------------------------


def _make_source(root: Path) -> None:
    root.mkdir()
    for path in ("bin", "etc/deep/er", "var"):
        (root / path).mkdir(parents=True)
    (root / "bin/tool").write_bytes(random.Random(3).randbytes(300_000))
    (root / "bin/tool").chmod(0o4755)
    os.link(root / "bin/tool", root / "bin/also")
    (root / "etc/ünï").write_text("text")
    (root / "etc" / os.fsdecode(b"raw\xff")).write_text("raw")
    (root / ("etc/" + "n" * 200)).write_text("long")
    (root / "etc/link").symlink_to("../" + "t" * 200)
    os.mkfifo(root / "var/fifo")
    os.mknod(root / "var/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(root / "etc/deep", 1234, 70_000)
    os.chown(root / "etc/link", 12, 13, follow_symlinks=False)
    os.setxattr(root / "bin/tool", "user.note", b"\x00\xffbinary")
    with open(root / "var/sparse", "wb") as sparse:
        sparse.truncate(2_000_000)
        sparse.seek(1_000_000)
        sparse.write(b"middle")
    for number, path in enumerate(sorted(facts(root), reverse=True)):
        os.utime(root / path, ns=(0, 10**18 + number * 10**9), follow_symlinks=False)


@pytest.mark.parametrize("form", ["gnu", "pax", "oldgnu"])
def test_what_gnu_tar_packs_we_unpack_equal(form: str, shm_path: Path) -> None:
    """Names, links, owners, times, sparse files, attributes: as in the tree that was packed."""
    source = shm_path / "source"
    _make_source(source)
    xattrs = ["--xattrs", "--xattrs-include=*"] if form == "pax" else []
    command = ["tar", f"--format={form}", "--sparse", *xattrs, "-C", str(source), "-cf", "-", "."]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    unpack_bytes(packed, shm_path / "out")
    expected = facts(source)
    if form != "pax":
        os.removexattr(source / "bin/tool", "user.note")
        expected = facts(source)
    assert facts(shm_path / "out") == expected
    assert (shm_path / "out/var/sparse").stat().st_blocks < 1000


def test_a_large_file_in_small_pieces(shm_path: Path) -> None:
    """Content that spans many blocks arrives whole."""
    data = random.Random(4).randbytes(3_000_000)
    blob = gzip.compress(tar(member("f", data=data), member("g", data=b"after")), 1)
    unpack_bytes(blob, shm_path / "out", cut=range(0, len(blob), 50_000))
    assert (shm_path / "out/f").read_bytes() == data
    assert (shm_path / "out/g").read_bytes() == b"after"
