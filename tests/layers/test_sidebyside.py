"""Layers made of what nobody looked at, by one process or by several: the bytes are the same."""

from __future__ import annotations

import ctypes
import io
import os
import select
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings

from asyncbuild.errors import AsyncbuildError, InputError
from asyncbuild.layers import sidebyside
from asyncbuild.layers.changeset import ChangeSet, Kind
from asyncbuild.layers.compression import GZIP, UNCOMPRESSED, ZSTD, Compression
from asyncbuild.layers.materialise import materialise
from asyncbuild.layers.members import FileRun, Member, Survey, cut, members_of, weight
from asyncbuild.layers.pack import PackedLayer, pack
from asyncbuild.layers.snapshot import snapshot, survey
from asyncbuild.layers.trim import Trim
from support.layers import change_sets, file
from support.overlay import unmount, with_private_mounts
from support.scratch import scratch

_BIND = 0x1000


def packed(
    changes: ChangeSet | Survey, compression: Compression = UNCOMPRESSED, processes: int = 1
) -> tuple[bytes, PackedLayer]:
    """The blob, and what is said of it."""
    sink = io.BytesIO()
    layer = pack(changes, sink, compression, processes)
    return sink.getvalue(), layer


def children() -> set[int]:
    """The processes that this one has started and not yet waited for."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):  # a thread that has just ended
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names are many, and pieces are small."""
    monkeypatch.setattr(sidebyside, "FEW", 1)
    monkeypatch.setattr(sidebyside, "PIECE", 3)


@pytest.fixture
def upper(shm_path: Path) -> Path:
    """A directory with 3,000 files and one of everything that is not plain."""
    root = shm_path / "upper"
    for number in range(3000):
        folder = root / f"d{number // 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(b"%d\n" % number * (number % 700))
    odd = root / "d07"
    (odd / "large").write_bytes(b"0123456789abcdef" * 200_000)
    (odd / "empty").touch(mode=0)
    (odd / "closed").mkdir(mode=0o700)
    (odd / "f1x").symlink_to("f1")
    os.mkfifo(odd / "f2x")
    os.link(odd / "f777", root / "d20/f0")
    (odd / ("n" * 120)).write_text("long")
    (odd / "ü").write_text("not ASCII")
    Path(os.fsdecode(os.fsencode(odd) + b"/\xff")).write_text("not UTF-8")
    (odd / "old").touch()
    os.chown(odd / "f700", 70_000, 1 << 23)
    (odd / "f701").chmod(0o6755)
    os.setxattr(odd / "f702", "user.x", b"1")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(odd / "socket"))
    for path in root.rglob("*"):
        os.utime(path, (1, 1_700_000_000), follow_symlinks=False)
    os.utime(odd / "old", (0, -1))
    return root


@pytest.mark.parametrize("compression", [UNCOMPRESSED, GZIP, ZSTD])
def test_the_bytes_do_not_depend_on_who_makes_them(upper: Path, compression: Compression) -> None:
    """Of entries that were looked at, of names alone, and by one, two or four processes."""
    blob, layer = packed(snapshot(str(upper), []), compression)
    before = children()
    for processes in (1, 2, 4):
        found = survey(str(upper), [])
        assert packed(found, compression, processes) == (blob, layer)
        assert children() == before
    assert layer.entries == len(list(upper.rglob("*"))) - 1  # the socket


def test_gnu_tar_finds_no_difference(upper: Path) -> None:
    """An independent reader compares the tar with the files: content, owners, modes, times, links."""
    blob, _ = packed(survey(str(upper), []), processes=2)
    done = subprocess.run(
        ["tar", "-C", str(upper), "--warning=no-unknown-keyword", "-df", "-"],
        input=blob,
        check=False,
        capture_output=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        names = {name.encode("utf-8", "surrogateescape") for name in archive.getnames()}
    there = {os.fsencode(path.relative_to(upper)) for path in upper.rglob("*")}
    assert names == there - {b"d07/socket"}


@settings(max_examples=60)
@given(change_sets(), change_sets())
def test_any_two_layers(below: ChangeSet, above: ChangeSet) -> None:
    """Whatever lies upon what: markers, links, odd names and attributes, all at their places."""
    with scratch() as place, pytest.MonkeyPatch.context() as patch:
        for name, changes in (("below", below), ("above", above)):
            (place / name).mkdir()
            materialise(changes, str(place / name))
        upper, lowers = str(place / "above"), [str(place / "below")]
        expected = packed(snapshot(upper, lowers))
        found = survey(upper, lowers)
        assert packed(found) == expected
        patch.setattr(sidebyside, "FEW", 1)
        patch.setattr(sidebyside, "PIECE", 2)
        assert packed(found, processes=2) == expected


@pytest.mark.parametrize(
    "trim",
    [
        Trim.of((), 1_600_000_000),
        Trim.of(("d07/empty", "d20", "nowhere"), None),
        Trim(emptied=frozenset({"d07/closed", "d11"})),
        Trim.of(("d07/n",), 0),
    ],
)
def test_trimmed_before_anyone_looked(upper: Path, trim: Trim) -> None:
    """What is left out and how young the rest may be: as of entries that were looked at."""
    below = [str(upper.parent / "below")]
    (upper.parent / "below/d03").mkdir(parents=True)
    (upper.parent / "below/d03/gone").touch()
    os.mknod(upper / "d03/gone", 0o020000, 0)
    expected = packed(trim(snapshot(str(upper), below)))
    assert packed(trim.surveyed(survey(str(upper), below, trim.ignored)), processes=2) == expected
    assert packed(trim.surveyed(survey(str(upper), below))) == expected


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_pieces_hold_everything_once_and_in_order(most: int) -> None:
    """Each but the last has as many names as it may."""
    run = tuple(f"{number:02}" for number in range(11))
    members: list[Member] = [
        FileRun("/r", "a/", run),
        file("b"),
        FileRun("/r", "c/", run[:4]),
        file("d"),
    ]
    pieces = list(cut(members, most))
    assert [weight(piece) for piece in pieces[:-1]] == [most] * (len(pieces) - 1)
    assert 0 < weight(pieces[-1]) <= most
    names: list[str] = []
    for member in (member for piece in pieces for member in piece):
        if isinstance(member, FileRun):
            names += [member.prefix + name for name in member.names]
        else:
            names.append(member.path)
    assert names == [*(f"a/{name}" for name in run), "b", *(f"c/{n}" for n in run[:4]), "d"]


# --- links ------------------------------------------------------------------------------------------


def test_links_between_new_and_old_directories(shm_path: Path) -> None:
    """An unchanged file that was copied up and a new name of it far behind: both are entries."""
    below, upper = shm_path / "below", shm_path / "upper"
    for root in (below, upper):
        (root / "etc").mkdir(parents=True)
        (root / "etc/conf").write_text("same")
        os.utime(root / "etc/conf", (1, 1))
        os.utime(root / "etc", (1, 1))
    (upper / "new").mkdir()
    for name in ("a", "b", "z"):
        (upper / "new" / name).write_text(name)
    os.link(upper / "etc/conf", upper / "new/m")
    os.link(upper / "new/a", upper / "new/y")
    found = survey(str(upper), [str(below)])
    changes = snapshot(str(upper), [str(below)])
    kinds = [(entry.path, entry.kind, entry.link) for entry in changes.additions]
    assert kinds == [
        ("etc", Kind.DIRECTORY, ""),
        ("etc/conf", Kind.FILE, ""),
        ("new", Kind.DIRECTORY, ""),
        ("new/a", Kind.FILE, ""),
        ("new/b", Kind.FILE, ""),
        ("new/m", Kind.HARDLINK, "etc/conf"),
        ("new/y", Kind.HARDLINK, "new/a"),
        ("new/z", Kind.FILE, ""),
    ]
    assert packed(found) == packed(changes)


def test_a_directory_that_lists_other_inodes_is_not_believed(shm_path: Path) -> None:
    """Of what is mounted on a name the listing tells the inode below; links are links nevertheless."""
    upper = shm_path / "upper"
    upper.mkdir()
    (shm_path / "elsewhere").write_text("x")
    os.link(shm_path / "elsewhere", shm_path / "again")
    for name in ("a", "b"):
        (upper / name).touch()
    libc = ctypes.CDLL(None, use_errno=True)
    kinds: list[tuple[str, Kind]] = []

    def look() -> None:
        for name in ("a", "b"):
            target = os.fsencode(upper / name)
            assert not libc.mount(os.fsencode(shm_path / "elsewhere"), target, None, _BIND, None)
        try:
            kinds.extend((entry.path, entry.kind) for entry in snapshot(str(upper), []).additions)
        finally:
            for name in ("a", "b"):
                unmount(upper / name)

    with_private_mounts(look)
    assert kinds == [("a", Kind.FILE), ("b", Kind.HARDLINK)]


def test_processes_never_take_the_same_piece() -> None:
    """Of a file in memory that they share the kernel itself would give some numbers to two of them."""
    count = 30_000
    tickets = sidebyside._tickets(count)
    reading, writing = os.pipe()
    workers = []
    for _ in range(3):
        if not (worker := os.fork()):
            with suppress(BaseException):
                while ticket := sidebyside._next(tickets):
                    os.write(writing, ticket)
            os._exit(0)
        workers.append(worker)
    os.close(tickets)
    os.close(writing)
    with open(reading, "rb") as numbers:
        taken = sorted(number for (number,) in sidebyside._TICKET.iter_unpack(numbers.read()))
    for worker in workers:
        os.waitpid(worker, 0)
    assert taken == list(range(count))


# --- what goes wrong --------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_a_file_that_is_gone_is_said(upper: Path) -> None:
    """By whichever process came upon it; none is left behind."""
    found = survey(str(upper), [])
    (upper / "d11/f1150").unlink()
    before = children()
    with pytest.raises(InputError, match=r"cannot read .*/d11/f1150: No such file"):
        packed(found, processes=3)
    assert children() == before
    with pytest.raises(InputError, match=r"cannot read .*/d11/f1150: No such file"):
        packed(found)


def test_a_name_that_would_be_a_marker_is_refused(shm_path: Path) -> None:
    """In the middle of a run as anywhere."""
    for name in (".a", ".wh.f", "z"):
        (shm_path / name).touch()
    with pytest.raises(InputError, match=r"/\.wh\.f: an image cannot hold"):
        packed(survey(str(shm_path), []))


@pytest.mark.usefixtures("eager")
def test_a_process_that_is_killed_is_said(upper: Path) -> None:
    """The first that finds too little memory ends the packing."""
    found = survey(str(upper), [])
    before = children()

    class Killing(io.BytesIO):
        def write(self, data: object, /) -> int:
            for pid in children() - before:
                os.kill(pid, signal.SIGKILL)
            return super().write(data)  # type: ignore[arg-type]

    with pytest.raises(AsyncbuildError, match="ended before its work was done"):
        pack(found, Killing(), UNCOMPRESSED, 2)
    assert children() == before
    assert "ordered" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.usefixtures("eager")
def test_processes_end_with_the_one_that_started_them(upper: Path) -> None:
    """Killed in the middle of a layer, it leaves none behind."""
    found = survey(str(upper), [])
    reading, writing = os.pipe()
    starter = os.fork()
    if not starter:
        with sidebyside.side_by_side(tuple(members_of(found)), 3) as portions:
            next(portions)
            os.write(writing, b" ".join(b"%d" % pid for pid in _children_of(os.getpid())))
            time.sleep(60)
    os.close(writing)
    try:
        helpers = [os.pidfd_open(int(pid)) for pid in os.read(reading, 1000).split()]
    finally:
        os.kill(starter, signal.SIGKILL)
        os.waitpid(starter, 0)
        os.close(reading)
    assert len(helpers) == 3
    for helper in helpers:
        _wait(helper)
        os.close(helper)


def _children_of(pid: int) -> Iterator[int]:
    yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _wait(process: int) -> None:
    """Until a process, by its pidfd, has ended."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    assert poll.poll(20_000)
