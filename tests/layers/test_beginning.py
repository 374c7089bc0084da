"""The beginning of a layer: what it tells, and what it must not tell."""

from __future__ import annotations

import gzip
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from asyncbuild.layers.beginning import Beginning, read_beginning
from support.images import Layer, directory, make_tar, symlink, text

NODES = (
    directory("bin"),
    directory("etc", 0o750),
    text("etc/name", "x"),
    symlink("lib", "usr/lib"),
    directory("srv", 0o700, uid=3, mtime=5),
    directory("usr"),
    text("usr/large", random.Random(1).randbytes(300_000).hex()),
    directory("var"),
)


def begun(data: bytes, name: str, *, whole: bool = False) -> Beginning:
    """The beginning of ``data`` in small pieces."""
    pieces = (data[at : at + 1000] for at in range(0, len(data), 1000))
    return read_beginning(pieces, name, whole=whole)


@pytest.mark.parametrize("compress", [lambda tar: tar, gzip.compress], ids=["plain", "gzip"])
def test_a_name_is_told_once_a_later_one_has_come(compress: object) -> None:
    """Half of a layer tells of what stands before the large file, and of nothing behind it."""
    assert callable(compress)
    data = compress(make_tar(NODES))
    half = begun(data[: len(data) // 2], "srv")
    assert half.tells("srv")
    assert not half.tells("usr")
    entry = half.entries["srv"]
    assert (entry.mode, entry.uid, entry.mtime_ns) == (0o700, 3, 5 * 10**9)
    assert not begun(data[: len(data) // 2], "usr").tells("usr")
    assert begun(data, "var", whole=True).tells("zzz")


def test_every_cut_tells_the_truth_or_nothing() -> None:
    """Wherever the bytes end: a name that is told of is as it is in the whole layer."""
    data = gzip.compress(make_tar(NODES[:6] + NODES[7:]))
    for size in range(len(data)):
        for name in ("bin", "opt", "srv", "usr", "var"):
            found = begun(data[:size], name)
            if found.tells(name):
                assert (name in found.entries) is (name != "opt")


def test_names_out_of_order_tell_nothing() -> None:
    """Another order may go on in any way, until it is all here."""
    data = Layer.of(directory("usr"), directory("srv"), directory("zoo")).data
    assert not begun(data, "var").tells("srv")
    assert begun(data, "var", whole=True).tells("srv")


def test_whiteouts_have_no_place_in_the_order() -> None:
    """Some builders write them first: they are seen, and nothing is concluded from their names."""
    marks = text(".wh.zoo", ""), text("etc/.wh..wh..opq", "")
    data = Layer.of(marks[0], directory("etc"), marks[1], replace(NODES[6], path="etc/large")).data
    found = begun(data, "srv")
    assert found.hidden == {"zoo"}
    assert found.opaque == {"etc"}
    assert not found.tells("srv")


@pytest.mark.parametrize("whole", [True, False])
def test_damage_tells_nothing(*, whole: bool) -> None:
    """Bytes that are no layer, or one with names that lead out of it."""
    assert not begun(b"\x1f\x8b" + b"x" * 5000, "srv", whole=whole).tells("bin")
    assert not begun(Layer.of(directory("a"), text("../x", "")).data, "z", whole=whole).tells("A")


def test_a_bomb_is_not_inflated() -> None:
    """A gigabyte of zeros in a megabyte is left where it is."""
    tar = make_tar([text("large", "\0" * (80 << 20))])
    assert not begun(gzip.compress(tar, 1), "srv").tells("srv")


def test_an_archive_of_gnu_tar(tmp_path: Path) -> None:
    """GNU tar in Debian's way: sorted, names from ``./``."""
    for name in ("etc", "srv", "usr"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root" / "usr" / "x").write_bytes(random.Random(2).randbytes(200_000))
    command = ["tar", "--sort=name", "-C", str(tmp_path / "root"), "-cz", "."]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    found = begun(data[:20_000], "srv")
    assert found.tells("srv")
    assert {"etc", "srv"} <= set(found.entries)
