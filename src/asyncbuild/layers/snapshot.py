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
from contextlib import contextmanager
from operator import attrgetter
from typing import Final

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, Kind
from asyncbuild.layers.marks import is_opaque, is_whiteout
from asyncbuild.layers.members import FileRun, Found, Hidden, Survey
from asyncbuild.layers.records import as_recorded, records
from asyncbuild.layers.xattrs import read_xattrs
from asyncbuild.records import dataclass, replace

_PIECE: Final = 1 << 20
_MANY: Final = 64
"""With so many names in a directory, those below are listed once instead of being looked up."""
_name_of = attrgetter("name")
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
    with _explained():
        return _looked_at(_Snapshot(upper, frozenset(exclude)).take(lowers))


def survey(upper: str, lowers: Sequence[str], exclude: Collection[str] = ()) -> Survey:
    """The same, but for new files of one name nothing is known but that: a third of the work."""
    with _explained():
        return _Snapshot(upper, frozenset(exclude)).take(lowers)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error


def _looked_at(found: Survey) -> ChangeSet:
    additions: list[Entry] = []
    hidden: list[Hidden] = []
    for item in found.found:
        if isinstance(item, Hidden):
            hidden.append(item)
        elif isinstance(item, FileRun):
            additions += _entries(item)
        else:
            additions.append(item)
    return ChangeSet(
        tuple(additions),
        tuple(item.path for item in hidden if not item.opaque),
        tuple(item.path for item in hidden if item.opaque),
    )


def _entries(run: FileRun) -> Iterator[Entry]:
    for name in run.names:
        path = run.prefix + name
        where = f"{run.root}/{path}"
        found = os.lstat(where)
        entry = None if is_whiteout(found, where) else entry_of(run.root, path, found)
        if entry is not None:
            yield entry


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


@dataclass(slots=True)
class _Run:
    """A `FileRun` that grows, and the inodes of its files as the directory lists them."""

    prefix: str
    names: list[str]
    inodes: list[int]


@dataclass(slots=True)
class _Level:
    """A directory in the middle of the walk.

    ``left`` is what is still to be looked at, ``lowers`` what is merged below, and ``known`` the names in
    there if they were listed.
    """

    prefix: str
    left: Iterator[os.DirEntry[str]]
    lowers: list[str]
    known: set[str] | None

    def below(self, name: str) -> Below | None:
        """What lies below a name."""
        if self.known is not None and name not in self.known:
            return None
        return look_below(self.lowers, name)


class _Snapshot:
    """One walk over an upper directory."""

    def __init__(self, upper: str, exclude: frozenset[str]) -> None:
        self._upper = upper
        self._exclude = exclude
        self._found: list[_Candidate | _Run | Hidden] = []
        self._seen: set[int] = set()
        self._twice: set[int] = set()

    def take(self, lowers: Sequence[str]) -> Survey:
        """What was found; the walk goes in its order, so nothing is sorted again."""
        self._walk([] if is_opaque(self._upper) else list(lowers))
        if self._twice:
            self._look_at_links()
            self._join_links()
        return Survey(tuple(self._members(self._parents())))

    def _members(self, parents: set[str]) -> Iterator[Found]:
        for item in self._found:
            if isinstance(item, _Run):
                yield FileRun(self._upper, item.prefix, tuple(item.names))
            elif isinstance(item, Hidden):
                yield item
            elif item.changed or item.entry.path in parents:
                yield item.entry

    def _walk(self, lowers: list[str]) -> None:
        """Look at every name, depth first, on a stack of our own: trees may be deeper than Python's."""
        stack = [self._level("", lowers)]
        while stack:
            inside = self._advance(stack[-1])
            if inside is None:
                stack.pop()
            else:
                stack.append(inside)

    def _level(self, prefix: str, lowers: list[str]) -> _Level:
        with os.scandir(f"{self._upper}/{prefix}") as found:
            names = sorted(found, key=_name_of)
        known = None
        if lowers and len(names) >= _MANY:
            known = {name for lower in lowers for name in os.listdir(lower)}
        return _Level(prefix, iter(names), lowers, known)

    def _advance(self, level: _Level) -> _Level | None:
        """Take in names until one is a directory, which is the next level."""
        run: _Run | None = None
        for item in level.left:
            name = item.name
            if self._exclude and level.prefix + name in self._exclude:
                continue
            below = level.below(name) if level.lowers else None
            if below is None and item.is_file(follow_symlinks=False):
                run = run or self._begin_run(level.prefix, item)
                if run is not None:
                    run.names.append(name)
                    run.inodes.append(item.inode())
                    continue
            self._end_run(run)
            run = None
            inside = self._look(level.prefix + name, below)
            if inside is not None:
                return self._level(f"{level.prefix}{name}/", inside)
        self._end_run(run)
        return None

    def _begin_run(self, prefix: str, item: os.DirEntry[str]) -> _Run | None:
        """A new run of files, or None where a directory lists other inodes than files have."""
        if item.stat(follow_symlinks=False).st_ino != item.inode():
            return None
        run = _Run(prefix, [], [])
        self._found.append(run)
        return run

    def _end_run(self, run: _Run | None) -> None:
        """Note the inodes of a run's files."""
        if run is None:
            return
        if len(set(run.inodes)) == len(run.inodes) and self._seen.isdisjoint(run.inodes):
            self._seen.update(run.inodes)
        else:
            for inode in run.inodes:
                self._note(inode)

    def _note(self, inode: int) -> None:
        """A file of that inode was met."""
        if inode in self._seen:
            self._twice.add(inode)
        self._seen.add(inode)

    def _look(self, path: str, below: Below | None) -> list[str] | None:
        """Take in what is at ``path``; for a directory, what is merged below it."""
        found = os.lstat(f"{self._upper}/{path}")
        if is_whiteout(found, f"{self._upper}/{path}"):
            if below is not None:
                self._found.append(Hidden(path))
            return None
        entry = entry_of(self._upper, path, found)
        if entry is None:
            return None
        if entry.kind is Kind.DIRECTORY:
            return self._directory(entry, below)
        changed = below is None or not _same(entry, below)
        linked = found.st_nlink > 1 and entry.kind is Kind.FILE
        inode = (found.st_dev, found.st_ino) if linked else None
        if linked:
            self._note(found.st_ino)
        self._found.append(_Candidate(entry, changed, inode))
        return None

    def _directory(self, entry: Entry, below: Below | None) -> list[str]:
        if below is None or not below.merged:
            self._found.append(_Candidate(entry, changed=True))
            return []
        if is_opaque(f"{self._upper}/{entry.path}"):
            self._found.append(_Candidate(entry, changed=True))
            if has_names(below.merged):
                self._found.append(Hidden(entry.path, opaque=True))
            return []
        self._found.append(_Candidate(entry, not _same(entry, below)))
        return below.merged

    def _look_at_links(self) -> None:
        """Look at files of runs whose inode was met twice, each by itself."""
        found, self._found = self._found, []
        for item in found:
            if not isinstance(item, _Run) or self._twice.isdisjoint(item.inodes):
                self._found.append(item)
                continue
            run: _Run | None = None
            for name, inode in zip(item.names, item.inodes, strict=True):
                if inode in self._twice:
                    run = None
                    self._look(item.prefix + name, None)
                    continue
                if run is None:
                    run = _Run(item.prefix, [], [])
                    self._found.append(run)
                run.names.append(name)

    def _join_links(self) -> None:
        groups: dict[tuple[int, int], list[_Candidate]] = {}
        for item in self._found:
            if isinstance(item, _Candidate) and item.inode is not None:
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
        for path in self._changed():
            parent = path.rpartition("/")[0]
            while parent and parent not in parents:
                parents.add(parent)
                parent = parent.rpartition("/")[0]
        return parents

    def _changed(self) -> Iterator[str]:
        """Paths that are changes; of a run, of which all have one parent, what it begins with."""
        for item in self._found:
            if isinstance(item, _Run):
                yield item.prefix
            elif isinstance(item, Hidden):
                yield item.path
            elif item.changed:
                yield item.entry.path


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
