"""What a command changed in a plain directory, found by two walks over its inodes.

Before the command every name's inode is noted, and afterwards again. Nothing is hashed: what was
written to has another ctime, which no program can set back (a rewrite of the same size with the old
mtime is seen), and what was made anew has another inode. A directory that was removed and made again
may get its old number: its time of birth tells.

The result is an upper directory as overlayfs would have left it (`asyncbuild.layers.marks`). It may
hold files that are as they were, as overlayfs's may; packing leaves these out
(`asyncbuild.layers.snapshot`). Two things differ from overlayfs, which gives every name of a hard-
linked file below a copy of its own when it is written to: here all names of that file change. And a
directory that was renamed and renamed back is no change.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from asyncbuild.layers.changeset import Entry, FileSource, Kind
from asyncbuild.layers.marks import make_opaque, make_whiteout
from asyncbuild.layers.snapshot import entry_of, same_bytes
from asyncbuild.layers.xattrs import read_xattrs
from asyncbuild.records import dataclass, field
from asyncbuild.rootfs import syscalls
from asyncbuild.rootfs.plainroot import set_attributes, write_entry
from asyncbuild.rootfs.reserved import NOTHING, Reserved
from asyncbuild.rootfs.view import DirectoryTree, View


class Seen(NamedTuple):
    """A name as it stood: ``birth`` (ns) is that of directories alone, and 0 where it is not known."""

    mode: int
    inode: int
    ctime_ns: int
    size: int
    mtime_ns: int
    owner: tuple[int, int]
    links: int
    birth: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether it can have names in it."""
        return stat.S_ISDIR(self.mode)


Walked: TypeAlias = Mapping[str, Seen]
"""Every name below a root, parents before their children."""


def walk(
    root: str, check: Callable[[], object] = int, reserved: Reserved = NOTHING
) -> dict[str, Seen]:
    """Look at every name below the directory ``root``; ``check`` is called for each directory.

    What is reserved is left out, and not gone into. So are directories on another device (mount points);
    of files the device says nothing, for a container's own root may give each layer's another. 100,000
    names take about a second.
    """
    device = os.lstat(root).st_dev
    found: dict[str, Seen] = {}
    pending = [""]
    while pending:
        directory = pending.pop()
        check()
        with os.scandir(f"{root}/{directory}") as items:
            inside = sorted((item.name, item.stat(follow_symlinks=False)) for item in items)
        for name, status in inside:
            path = f"{directory}/{name}" if directory else name
            if path in reserved.names:
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            if is_directory and status.st_dev != device:
                continue
            birth = syscalls.birth_ns(f"{root}/{path}") if is_directory else 0
            found[path] = Seen(
                status.st_mode,
                status.st_ino,
                status.st_ctime_ns,
                status.st_size,
                status.st_mtime_ns,
                (status.st_uid, status.st_gid),
                status.st_nlink,
                birth,
            )
            if is_directory:
                pending.append(path)
    return found


@dataclass(slots=True)
class Difference:
    """What became of a tree: ``changed`` names, directories ``made`` anew in the place of others, names
    that are ``gone`` (of a whole directory its own name alone).
    """

    changed: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    gone: list[str] = field(default_factory=list)


def compare(before: Walked, after: Walked) -> Difference:
    """Where ``after`` differs from ``before``. Pure."""
    found = Difference()
    fresh: set[str] = set()
    for path, now in after.items():
        was = before.get(path)
        if path.rpartition("/")[0] in fresh:
            found.changed.add(path)
            if now.is_directory:
                fresh.add(path)
        elif was is None or was[:3] != now[:3] or was.birth != now.birth:
            found.changed.add(path)
            if now.is_directory and not _is_same_directory(was, now):
                fresh.add(path)
                if was is not None and was.is_directory:
                    found.made.add(path)
    for path in before:
        parent = path.rpartition("/")[0]
        if (
            path not in after
            and parent not in fresh
            and (not parent or _stays(parent, before, after))
        ):
            found.gone.append(path)
    return found


def _stays(path: str, before: Walked, after: Walked) -> bool:
    now = after.get(path)
    return now is not None and now.is_directory and before[path].is_directory


def _is_same_directory(was: Seen | None, now: Seen) -> bool:
    return was is not None and (was.is_directory, was.inode, was.birth) == (
        True,
        now.inode,
        now.birth,
    )


class Upper:
    """Writes what changed in ``tree`` into the empty directory ``upper``.

    ``lowers`` (topmost first) are what the tree showed before. Without ``keep`` the tree is of no more use,
    and files are linked instead of copied.
    """

    def __init__(self, tree: str, upper: str, lowers: list[str], *, keep: bool) -> None:
        self._tree = tree
        self._upper = upper
        self._below = View([DirectoryTree(path) for path in lowers])
        self._keep = keep
        self._directories: dict[str, Entry] = {}
        self._linked: dict[int, str] = {}

    def write(self, before: Walked, after: Walked) -> None:
        """Everything that differs. InputError, OSError: something cannot be read or written."""
        found = compare(before, after)
        found.changed -= self._same_links(before, after, found)
        for path in after:
            if path in found.changed:
                self._take(path, after[path])
        for path in found.made:
            make_opaque(f"{self._upper}/{path}")
        for path in found.gone:
            self._hide(path)
        for path in sorted(self._directories, reverse=True):
            set_attributes(self._directories[path], f"{self._upper}/{path}")
        root = entry_of(self._tree, "")
        assert root is not None
        set_attributes(root, self._upper)

    def _take(self, path: str, now: Seen) -> None:
        if now.is_directory:
            self._directory(path)
            return
        if stat.S_ISSOCK(now.mode):
            return
        target = f"{self._upper}/{path}"
        first = self._linked.get(now.inode) if now.links > 1 else None
        self._directory(path.rpartition("/")[0])
        if first is None and not self._keep and not _would_hide(self._tree, path, now):
            first = f"{self._tree}/{path}"
        if first is not None:
            os.link(first, target, follow_symlinks=False)
            return
        entry = entry_of(self._tree, path)
        if entry is None or (entry.kind is Kind.CHARACTER_DEVICE and entry.device == (0, 0)):
            self._hide(path)
            return
        write_entry(entry, target)
        self._linked[now.inode] = target

    def _directory(self, path: str) -> None:
        """Make a directory with its parents; attributes come last."""
        if not path or path in self._directories:
            return
        self._directory(path.rpartition("/")[0])
        entry = entry_of(self._tree, path)
        assert entry is not None
        self._directories[path] = entry
        os.mkdir(f"{self._upper}/{path}", 0o700)

    def _hide(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        self._directory(parent)
        where = os.open(f"{self._upper}/{parent}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            make_whiteout(name, where)
        finally:
            os.close(where)

    def _same_links(self, before: Walked, after: Walked, found: Difference) -> set[str]:
        """Names of files that have several, and of which nothing but their number changed.

        overlayfs copies that one up which is linked, and leaves the others: so is it done here with the
        first of them, if there is a new one.
        """
        groups: dict[int, list[str]] = {}
        new: set[int] = set()
        for path in found.changed:
            now, was = after[path], before.get(path)
            if now.is_directory:
                continue
            if was is not None and _only_links(was, now):
                groups.setdefault(now.inode, []).append(path)
            else:
                new.add(now.inode)
        same: set[str] = set()
        for inode, paths in groups.items():
            if len(paths) > 1 and self._is_as_below(min(paths)):
                same.update(sorted(paths)[1:] if inode in new else paths)
        return same

    def _is_as_below(self, path: str) -> bool:
        below = self._below.lookup(path)
        if below is None or not isinstance(below.source, FileSource):
            return False
        host = f"{self._tree}/{path}"
        return below.xattrs == read_xattrs(host) and same_bytes(host, below.source.path)


def _only_links(was: Seen, now: Seen) -> bool:
    return (was.mode, was.inode, was.size, was.mtime_ns, was.owner) == (
        now.mode,
        now.inode,
        now.size,
        now.mtime_ns,
        now.owner,
    )


def _would_hide(tree: str, path: str, now: Seen) -> bool:
    """Whether a link to this device would be a whiteout."""
    return stat.S_ISCHR(now.mode) and Path(tree, path).lstat().st_rdev == 0
