"""What a stack of lower directories shows, told briefly: enough for a COPY, far too little for a RUN.

A listing has the directories with their attributes, where links lead, the names of everything else, and
the text of ``etc/passwd`` and ``etc/group``. It is made of directories on this machine (`list_root`, which
blocks) and travels as one compressed document, which may come from elsewhere: `Listing.decode` takes
nothing for granted.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.marks import is_opaque, is_whiteout
from asyncbuild.layers.records import as_recorded
from asyncbuild.layers.xattrs import read_xattrs
from asyncbuild.records import dataclass, field

VERSION: Final = 1
MOST_BYTES: Final = 2 << 20
"""Of a document. The base of the bench, 23,000 names, takes a tenth."""
_MOST_INFLATED: Final = 64 << 20
TEXTS: Final = ("etc/passwd", "etc/group")
_MOST_TEXT: Final = 1 << 20
_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
    stat.S_IFIFO: Kind.FIFO,
}


class DamagedListing(ValueError):
    """Bytes that are no listing of this version."""


@dataclass(frozen=True, slots=True)
class Inside:
    """One directory: itself, where its links lead, and what its other names are; no directories."""

    directory: Entry
    links: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, Kind] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """Every directory by its path, the root ``""`` among them; ``texts`` are files of which all is told."""

    directories: Mapping[str, Inside]
    texts: Mapping[str, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The document; equal listings give equal bytes."""
        rows = [_row(self.directories[path]) for path in sorted(self.directories)]
        texts = {name: base64.b64encode(text).decode() for name, text in self.texts.items()}
        value = {"version": VERSION, "directories": rows, "texts": texts}
        return zlib.compress(json.dumps(value, separators=(",", ":"), sort_keys=True).encode(), 6)

    @classmethod
    def decode(cls, raw: bytes) -> Listing:
        """Read a document from anywhere; `DamagedListing` if anything in it is not as it must be."""
        try:
            value = json.loads(_inflate(raw))
            rows = {VERSION: value["directories"]}[value["version"]]
            found = [_inside(row) for row in rows]
            texts = {
                name: base64.b64decode(value["texts"][name], validate=True)
                for name in TEXTS
                if name in value["texts"]
            }
        except DamagedListing:
            raise
        except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise DamagedListing(f"no listing: {error}") from None
        directories = {inside.directory.path: inside for inside in found}
        _check(directories, texts, len(found))
        return cls(directories, texts)


def list_root(lower: Sequence[str]) -> Listing:
    """The listing of overlay lower directories, topmost first; they do not change meanwhile. Blocks."""
    directories: dict[str, Inside] = {}
    texts: dict[str, bytes] = {}
    pending: list[tuple[str, list[str]]] = [("", list(lower))]
    while pending:
        path, parts = pending.pop()
        inside, below = _list_directory(path, parts, texts)
        directories[path] = inside
        pending.extend(below)
    return Listing(directories, texts)


def _list_directory(
    path: str, parts: list[str], texts: dict[str, bytes]
) -> tuple[Inside, list[tuple[str, list[str]]]]:
    """One directory, merged of ``parts`` (the topmost has its attributes), and those in it."""
    prefix = f"{path}/" if path else ""
    links: dict[str, str] = {}
    others: dict[str, Kind] = {}
    below: dict[str, list[str]] = {}
    closed: set[str] = set()
    for part in parts:
        for name, kind, host in _names(part):
            if name in closed:
                continue
            if kind is Kind.DIRECTORY:
                below.setdefault(name, []).append(host)
                if is_opaque(host):
                    closed.add(name)
                continue
            closed.add(name)
            if kind is None or name in below:
                continue
            if kind is Kind.SYMLINK:
                links[name] = os.readlink(host)
            else:
                others[name] = kind
                _keep_text(prefix + name, host, texts)
    inside = Inside(_directory(path, parts), links, others)
    return inside, [(prefix + name, hosts) for name, hosts in below.items()]


def _names(directory: str) -> Iterator[tuple[str, Kind | None, str]]:
    """The names in one lower directory, the kind of each (None: a whiteout), and its path."""
    with os.scandir(directory) as entries:
        for item in entries:
            if item.is_dir(follow_symlinks=False):
                yield item.name, Kind.DIRECTORY, item.path
            elif item.is_symlink():
                yield item.name, Kind.SYMLINK, item.path
            else:
                status = item.stat(follow_symlinks=False)
                kind, size = _KINDS.get(stat.S_IFMT(status.st_mode)), status.st_size
                if is_whiteout(status, item.path):
                    yield item.name, None, item.path
                elif kind is not None:  # an image cannot hold sockets
                    # where no device can be made a file stands for it
                    yield (
                        item.name,
                        as_recorded(Entry("", kind, size=size), item.path).kind,
                        item.path,
                    )


def _directory(path: str, parts: list[str]) -> Entry:
    if not parts:
        return Entry("", Kind.DIRECTORY, 0o755)
    status = os.lstat(parts[0])
    xattrs = read_xattrs(parts[0])
    mode = stat.S_IMODE(status.st_mode)
    entry = Entry(
        path,
        Kind.DIRECTORY,
        mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        xattrs=xattrs,
    )
    return as_recorded(entry, parts[0])


def _keep_text(path: str, host: str, texts: dict[str, bytes]) -> None:
    if path in TEXTS and os.lstat(host).st_size <= _MOST_TEXT:
        with open(os.open(host, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            texts[path] = file.read()


def _row(inside: Inside) -> list[Any]:
    """A directory as JSON: plain files by their names alone, which nearly all of it is."""
    entry = inside.directory
    xattrs = [[name, base64.b64encode(value).decode()] for name, value in entry.xattrs]
    files = sorted(name for name, kind in inside.others.items() if kind is Kind.FILE)
    special = {name: kind.value for name, kind in inside.others.items() if kind is not Kind.FILE}
    attributes = [entry.mode, entry.uid, entry.gid, entry.mtime_ns, xattrs]
    return [entry.path, *attributes, dict(inside.links), files, special]


def _inside(row: Any) -> Inside:
    path, mode, uid, gid, mtime_ns, xattrs, links, files, special = row
    if not all(type(number) is int for number in (mode, uid, gid, mtime_ns)):
        raise DamagedListing("attributes that are no numbers")
    if not (0 <= mode <= 0o7777 and 0 <= uid < 1 << 32 and 0 <= gid < 1 << 32):
        raise DamagedListing(f"attributes out of range: {mode:o} {uid}:{gid}")
    if not -(1 << 63) <= mtime_ns < 1 << 63:
        raise DamagedListing("a time out of range")
    others = dict.fromkeys(map(_name, files), Kind.FILE)
    others |= {_name(name): Kind(kind) for name, kind in special.items()}
    attributes = tuple(
        (_text(name), base64.b64decode(data, validate=True)) for name, data in xattrs
    )
    entry = Entry(_text(path), Kind.DIRECTORY, mode, uid, gid, mtime_ns, xattrs=attributes)
    return Inside(entry, {_name(name): _text(to) for name, to in links.items()}, others)


def _check(directories: Mapping[str, Inside], texts: Mapping[str, bytes], rows: int) -> None:
    """Every directory stands in one, once, and no name is two things."""
    if len(directories) != rows or "" not in directories:
        raise DamagedListing("a directory twice, or no root")
    for path in directories:
        if path:
            parent, _, name = path.rpartition("/")
            above = directories.get(parent)
            if (
                path.startswith("/")
                or above is None
                or _name(name) in above.links
                or name in above.others
            ):
                raise DamagedListing(f"{path!r} stands in no directory, or is no directory")
    for inside in directories.values():
        if inside.links.keys() & inside.others.keys():
            raise DamagedListing("a name that is two things")
    for text in texts:
        above = directories.get(text.rpartition("/")[0])
        if above is None or above.others.get(text.rpartition("/")[2]) is not Kind.FILE:
            raise DamagedListing(f"the text of {text}, which is no file")


def _name(value: Any) -> str:
    name = _text(value)
    if not name or name in (".", "..") or "/" in name:
        raise DamagedListing(f"{name!r} is no name")
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise DamagedListing("no text")
    return value


def _inflate(raw: bytes) -> bytes:
    if len(raw) > MOST_BYTES:
        raise DamagedListing(f"{len(raw)} bytes, more than {MOST_BYTES}")
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(raw, _MOST_INFLATED)
    except (zlib.error, binascii.Error) as error:
        raise DamagedListing(str(error)) from None
    if not inflater.eof or inflater.unused_data:
        raise DamagedListing("it is cut off, or larger than a listing may be")
    return data
