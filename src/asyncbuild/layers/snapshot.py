"""An overlay upper directory to the change set of what it changed.

Only the upper directory is walked; of what lies below, only the names that it has are looked up, in
lower directories as overlayfs merges them (character device 0/0 hides, an opaque directory ends the
merge). The overlay must have been mounted with redirect_dir, metacopy and index off.

1. A file that was copied up but is the same as below (attributes and bytes) is no change. Neither is a
   directory without changed children. With changed ones it is an entry, as in BuildKit's layers.
2. A hidden name that exists below is a deletion. A directory that hides something below is opaque.
3. Files of one inode are one FILE, the first in order, and HARDLINKs to it. If one of them is a change,
   all are: a link to a file that no other layer links would break in runtimes otherwise.
4. Sockets are nothing. The root is never an entry.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, Kind
from asyncbuild.layers.marks import is_opaque, is_whiteout
from asyncbuild.layers.records import as_recorded, records
from asyncbuild.layers.xattrs import read_xattrs
from asyncbuild.records import dataclass

_PIECE: Final = 1 << 20
_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
    stat.S_IFIFO: Kind.FIFO,
}


def snapshot(upper: str, lowers: Sequence[str], exclude: Collection[str] = ()) -> ChangeSet:
    """What ``upper`` changes of the merged ``lowers`` (absolute paths, the topmost first).

    Names in ``exclude`` are left out with everything below them. `InputError` if something cannot be
    read. Nothing may write to the directories meanwhile.
    """
    try:
        return _Snapshot(upper, frozenset(exclude)).take(lowers)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error


def entry_of(root: str, path: str, found: os.stat_result | None = None) -> Entry | None:
    """The entry of what stands at ``path`` below ``root``; None for a socket. OSError if nothing does.

    ``found`` is its lstat if the caller has it.
    """
    where = f"{root}/{path}" if path else root
    if found is None:
        found = os.lstat(where)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    device = (0, 0)
    if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        device = (os.major(found.st_rdev), os.minor(found.st_rdev))
    entry = Entry(
        path,
        kind,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
        found.st_size if kind is Kind.FILE else 0,
        os.readlink(where) if kind is Kind.SYMLINK else "",
        device,
        read_xattrs(where),
        FileSource(where) if kind is Kind.FILE else None,
    )
    return as_recorded(entry, where)


@dataclass(slots=True)
class _Candidate:
    """An entry of the upper directory, whether it is a change, and its inode if that has other names."""

    entry: Entry
    changed: bool
    inode: tuple[int, int] | None = None


class _Snapshot:
    """One walk over an upper directory."""

    def __init__(self, upper: str, exclude: frozenset[str]) -> None:
        self._upper = upper
        self._exclude = exclude
        self._found: list[_Candidate] = []
        self._deletions: list[str] = []
        self._opaque: list[str] = []

    def take(self, lowers: Sequence[str]) -> ChangeSet:
        """The change set; the walk goes in its order, so nothing is sorted again."""
        self._walk([] if is_opaque(self._upper) else list(lowers))
        self._join_links()
        parents = self._parents()
        additions = (
            item.entry for item in self._found if item.changed or item.entry.path in parents
        )
        return ChangeSet(tuple(additions), tuple(self._deletions), tuple(self._opaque))

    def _walk(self, lowers: list[str]) -> None:
        """Look at every name, depth first, on a stack of our own: trees may be deeper than Python's."""
        stack = [("", self._names(""), lowers)]
        while stack:
            prefix, names, below = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                continue
            path = prefix + name
            if path not in self._exclude:
                inside = self._look(path, look_below(below, name))
                if inside is not None:
                    stack.append((f"{path}/", self._names(path), inside))

    def _names(self, directory: str) -> Iterator[str]:
        return iter(sorted(os.listdir(f"{self._upper}/{directory}")))

    def _look(self, path: str, below: Below | None) -> list[str] | None:
        """Take in what is at ``path``; for a directory, what is merged below it."""
        found = os.lstat(f"{self._upper}/{path}")
        if is_whiteout(found, f"{self._upper}/{path}"):
            if below is not None:
                self._deletions.append(path)
            return None
        entry = entry_of(self._upper, path, found)
        if entry is None:
            return None
        if entry.kind is Kind.DIRECTORY:
            return self._directory(entry, below)
        changed = below is None or not _same(entry, below)
        linked = found.st_nlink > 1 and entry.kind is Kind.FILE
        inode = (found.st_dev, found.st_ino) if linked else None
        self._found.append(_Candidate(entry, changed, inode))
        return None

    def _directory(self, entry: Entry, below: Below | None) -> list[str]:
        if below is None or not below.merged:
            self._found.append(_Candidate(entry, changed=True))
            return []
        if is_opaque(f"{self._upper}/{entry.path}"):
            self._found.append(_Candidate(entry, changed=True))
            if has_names(below.merged):
                self._opaque.append(entry.path)
            return []
        self._found.append(_Candidate(entry, not _same(entry, below)))
        return below.merged

    def _join_links(self) -> None:
        groups: dict[tuple[int, int], list[_Candidate]] = {}
        for item in self._found:
            if item.inode is not None:
                groups.setdefault(item.inode, []).append(item)
        for first, *others in groups.values():
            first.changed = any(item.changed for item in (first, *others))
            for item in others:
                item.changed = first.changed
                item.entry = replace(
                    item.entry,
                    kind=Kind.HARDLINK,
                    link=first.entry.path,
                    size=0,
                    xattrs=(),
                    source=None,
                )

    def _parents(self) -> set[str]:
        """The directories that hold a change, at any depth."""
        parents: set[str] = set()
        changed = (item.entry.path for item in self._found if item.changed)
        for path in chain(changed, self._deletions, self._opaque):
            parent = path.rpartition("/")[0]
            while parent and parent not in parents:
                parents.add(parent)
                parent = parent.rpartition("/")[0]
        return parents


@dataclass(frozen=True, slots=True)
class Below:
    """What merged lower directories show at a name: where it stands, its lstat, and for a directory
    all the directories that are merged there.
    """

    where: str
    found: os.stat_result
    merged: list[str]


def look_below(lowers: Sequence[str], name: str) -> Below | None:
    """What ``lowers``, directories that are merged with the topmost first, show at ``name``."""
    top: Below | None = None
    for directory in lowers:
        where = f"{directory}/{name}"
        try:
            found = os.lstat(where)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(found.st_mode):
            if top is None and not is_whiteout(found, where):
                return Below(where, found, [])
            break
        if top is None:
            top = Below(where, found, [])
        top.merged.append(where)
        if is_opaque(where):
            break
    return top


def has_names(merged: Sequence[str]) -> bool:
    """Whether any name is seen in directories that are merged."""
    for directory in merged:
        for name in os.listdir(directory):
            if look_below(merged, name) is not None:
                return True
    return False


def _same(entry: Entry, below: Below) -> bool:
    """Whether ``entry`` is what stands below: all that a layer could say of it, bytes included."""
    found = below.found
    status = (
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
    )
    if not records() and (entry.mode, entry.uid, entry.gid, entry.mtime_ns) != status:
        return False
    old = entry_of(below.where, "", found)
    if old is None or replace(old, path=entry.path, source=entry.source) != entry:
        return False
    return entry.kind is not Kind.FILE or _holds(entry, below.where)


def _holds(entry: Entry, other: str) -> bool:
    assert isinstance(entry.source, FileSource)
    return same_bytes(entry.source.path, other)


def same_bytes(one: str, other: str) -> bool:
    """Whether two files hold the same; reads no further than the first difference."""
    with open(one, "rb", buffering=0) as first, open(other, "rb", buffering=0) as second:
        while True:
            piece = first.read(_PIECE)
            if piece != second.read(len(piece) or 1):
                return False
            if not piece:
                return True
