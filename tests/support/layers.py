"""Layers for tests: tars built by hand, directories told apart in every respect, change sets at random."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.layers.changeset import ChangeSet, Entry, InlineSource, Kind
from asyncbuild.layers.compression import UNCOMPRESSED, Compression
from asyncbuild.layers.pack import PackedLayer, pack
from asyncbuild.layers.unpack import Unpacked, UnpackJob, unpack


class Fact(NamedTuple):
    """All that can be seen of a name; ``same_as`` is the first name of the same inode.

    The time of a whiteout, which nothing sees, is 0.
    """

    type: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: bytes
    link: str
    device: int
    xattrs: tuple[tuple[str, bytes], ...]
    same_as: str


def facts(root: Path) -> dict[str, Fact]:
    """Everything below ``root``, the root left out, overlay's own attributes included."""
    found: dict[str, Fact] = {}
    inodes: dict[int, str] = {}
    todo = [""]
    while todo:
        directory = todo.pop()
        for name in sorted(os.listdir(root / directory)):
            path = f"{directory}/{name}" if directory else name
            status = os.lstat(root / path)
            found[path] = _fact(root, path, status, inodes.setdefault(status.st_ino, path))
            if stat.S_ISDIR(status.st_mode):
                todo.append(path)
    return found


def _fact(root: Path, path: str, status: os.stat_result, same_as: str) -> Fact:
    where = f"{root}/{path}"
    names = sorted(os.listxattr(where, follow_symlinks=False))
    return Fact(
        stat.S_IFMT(status.st_mode),
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        0 if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0 else status.st_mtime_ns,
        Path(where).read_bytes() if stat.S_ISREG(status.st_mode) else b"",
        os.readlink(where) if stat.S_ISLNK(status.st_mode) else "",
        status.st_rdev,
        tuple((name, os.getxattr(where, name, follow_symlinks=False)) for name in names),
        same_as,
    )


def whiteouts(root: Path) -> set[str]:
    """The names that overlayfs hides."""
    return {
        path for path, fact in facts(root).items() if fact.type == stat.S_IFCHR and fact.device == 0
    }


def opaque_directories(root: Path) -> set[str]:
    """The directories whose lower content overlayfs hides; ``""`` for the root."""
    key = "trusted.overlay.opaque"
    found = {path for path, fact in facts(root).items() if (key, b"y") in fact.xattrs}
    return found | ({""} if key in os.listxattr(root) else set())


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> bytes:
    """One entry as tarfile writes it, with fields of TarInfo (``linkname``, ``mode``, …)."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    body = data + bytes(-len(data) % 512)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + body


def tar(*members: bytes) -> bytes:
    """An archive of ``members``."""
    return b"".join(members) + bytes(1024)


def directory(name: str, **fields: Any) -> bytes:
    """A directory's entry."""
    return member(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str, **fields: Any) -> bytes:
    """A symlink's entry."""
    return member(name, tarfile.SYMTYPE, linkname=target, **fields)


def hardlink(name: str, target: str, **fields: Any) -> bytes:
    """A hardlink's entry."""
    return member(name, tarfile.LNKTYPE, linkname=target, **fields)


def unpack_bytes(
    blob: bytes, destination: Path, *, cut: Sequence[int] = (), diff_id: DiffId | None = None
) -> Unpacked:
    """Unpack ``blob`` into the new directory ``destination``, cut into pieces at ``cut``."""
    destination.mkdir()
    job = UnpackJob(str(destination), Digest.of(blob), len(blob), diff_id)
    return unpack(job, pieces(blob, cut))


def pieces(data: bytes, cut: Iterable[int]) -> list[bytes]:
    """``data`` cut at the positions ``cut``, empty pieces left out."""
    edges = [0, *sorted(min(position, len(data)) for position in cut), len(data)]
    found = (data[a:b] for a, b in pairwise(edges))
    return [piece for piece in found if piece]


def pack_bytes(
    changes: ChangeSet, compression: Compression = UNCOMPRESSED
) -> tuple[bytes, PackedLayer]:
    """The blob of ``changes`` and what `pack` says of it, which is checked."""
    sink = io.BytesIO()
    layer = pack(changes, sink, compression)
    blob = sink.getvalue()
    assert layer.descriptor.size == len(blob)
    assert layer.descriptor.digest.hex == hashlib.sha256(blob).hexdigest()
    return blob, layer


def file(path: str, data: bytes = b"", mode: int = 0o644, **fields: Any) -> Entry:
    """A file's entry with its content in memory."""
    given: dict[str, Any] = {"mtime_ns": 0, **fields}
    return Entry(path, Kind.FILE, mode, size=len(data), source=InlineSource(data), **given)


# --- at random --------------------------------------------------------------------------------------

_SHORT = st.binary(min_size=1, max_size=6)
_LONG = st.integers(90, 255).map(lambda size: b"n" * size)
_WORDS = st.sampled_from(
    [b"a", b"b", "ü".encode(), "日本".encode(), b"with space", b"new\nline", b"%s"]
)
NAMES = (
    st.one_of(_WORDS, _SHORT, _LONG)
    .map(lambda name: name.replace(b"\0", b"_").replace(b"/", b"_"))
    .filter(lambda name: name not in (b".", b"..") and not name.startswith(b".wh."))
    .map(os.fsdecode)
)
_MODES = st.integers(0, 0o7777)
_IDS = st.one_of(st.just(0), st.integers(0, 70000), st.just(0o7777777 + 1), st.just(2**32 - 2))
_SECONDS = st.one_of(st.integers(0, 2**32), st.integers(-1000, -1), st.just(8**11 + 5))
_XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.b=c", "trusted.x"]), st.binary(max_size=40), max_size=2
)


@st.composite
def _entries(draw: st.DrawFn, path: str, depth: int) -> list[Entry]:
    """What stands at ``path``: its entry, and those below it for a directory."""
    kinds = [Kind.FILE, Kind.SYMLINK, Kind.FIFO, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE]
    kind = draw(st.sampled_from([Kind.DIRECTORY, *kinds] if depth else kinds))
    xattrs = draw(_XATTRS) if kind in (Kind.FILE, Kind.DIRECTORY) else {}
    data = draw(st.binary(max_size=2000)) if kind is Kind.FILE else b""
    device = (draw(st.integers(1, 300)), draw(st.integers(0, 300)))
    entry = Entry(
        path,
        kind,
        0o777 if kind is Kind.SYMLINK else draw(_MODES),
        draw(_IDS),
        draw(_IDS),
        draw(_SECONDS) * 10**9,
        len(data),
        draw(st.one_of(NAMES, st.just("/" + "long/" * 60))) if kind is Kind.SYMLINK else "",
        device if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else (0, 0),
        tuple(sorted(xattrs.items())),
        InlineSource(data) if kind is Kind.FILE else None,
    )
    if kind is not Kind.DIRECTORY:
        return [entry]
    below = [draw(_entries(f"{path}/{name}", depth - 1)) for name in draw(_name_sets(3))]
    return [entry, *(inner for group in below for inner in group)]


def _name_sets(most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(NAMES, max_size=most, unique=True)


@st.composite
def change_sets(draw: st.DrawFn) -> ChangeSet:
    """Additions of every kind with all their parents, hardlinks among them, and some deletions."""
    names = draw(_name_sets(5))
    added, deleted = names[: len(names) - 1], names[len(names) - 1 :]
    groups = [draw(_entries(name, 3)) for name in added]
    entries = {entry.path: entry for group in groups for entry in group}
    files = [entry for entry in entries.values() if entry.kind is Kind.FILE]
    if files:
        first = draw(st.sampled_from(files))
        link = Entry(
            f"{first.path[:200]}~",
            Kind.HARDLINK,
            first.mode,
            first.uid,
            first.gid,
            first.mtime_ns,
            link=first.path,
        )
        if link.path not in entries and "/" not in first.path and link.path not in deleted:
            entries[link.path] = link
    return ChangeSet.of(entries.values(), deleted)
