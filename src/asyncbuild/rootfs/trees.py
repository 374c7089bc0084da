"""One tree of a root: an unpacked layer on disk, or a change set in memory.

A tree answers for itself only: what it says at a path, whiteouts included. How trees lie over each
other is `asyncbuild.rootfs.view`'s.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Protocol

from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, Kind
from asyncbuild.layers.marks import family, is_opaque, is_whiteout
from asyncbuild.layers.paths import ancestors, join, parent_of
from asyncbuild.layers.records import as_recorded
from asyncbuild.layers.xattrs import read_xattrs
from asyncbuild.records import dataclass

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
    stat.S_IFIFO: Kind.FIFO,
}


@dataclass(frozen=True, slots=True)
class Node:
    """What one tree says at one path.

    ``entry`` is None for a whiteout. ``opaque`` directories hide the directories below them.
    ``implied`` directories exist only because something stands in them: their attributes are those
    of the directory below. ``identity`` is shared by the names of one file within the tree.
    """

    entry: Entry | None
    opaque: bool = False
    implied: bool = False
    identity: Hashable = None


WHITEOUT = Node(None)


class Tree(Protocol):
    """A tree that a `View` can merge; it does not change while it is read."""

    def node(self, path: str, /) -> Node | None:
        """What stands at ``path``; None if the tree says nothing about it."""

    def children(self, path: str, /) -> dict[str, Node]:
        """What stands in the directory ``path``, whiteouts included, by name."""


class DirectoryTree:
    """A directory in overlayfs' lower format.

    Whiteouts and opaque directories have the marks of `asyncbuild.layers.marks`. Sockets are left out: an
    image cannot hold them.
    """

    def __init__(self, path: str | Path) -> None:
        self._root = os.path.abspath(path)
        self._directories: dict[str, bool] = {"": True}

    def __repr__(self) -> str:
        return f"DirectoryTree({self._root!r})"

    def node(self, path: str, /) -> Node | None:
        """What stands at ``path`` on disk; a symlinked parent is no directory."""
        if path and not self._is_directory(parent_of(path)):
            return None
        host = self._host(path)
        try:
            status = os.lstat(host)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise
        return _node(path, host, status)

    def children(self, path: str, /) -> dict[str, Node]:
        """One scan of the directory ``path``."""
        if not self._is_directory(path):
            return {}
        found: dict[str, Node] = {}
        with os.scandir(self._host(path)) as entries:
            for item in entries:
                node = _node(join(path, item.name), item.path, item.stat(follow_symlinks=False))
                if node is not None:
                    found[item.name] = node
                    if node.entry is not None and node.entry.kind is Kind.DIRECTORY:
                        self._directories[node.entry.path] = True
        return found

    def _host(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _is_directory(self, path: str) -> bool:
        """Whether every component of ``path`` is a directory: then the host path stays inside."""
        known = self._directories.get(path)
        if known is None:
            known = self._is_directory(parent_of(path))
            if known:
                try:
                    known = stat.S_ISDIR(os.lstat(self._host(path)).st_mode)
                except OSError:
                    known = False
            self._directories[path] = known
        return known


def _node(path: str, host: str, status: os.stat_result) -> Node | None:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    if is_whiteout(status, host):
        return WHITEOUT
    device = (0, 0)
    if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    xattrs, opaque = _xattrs(host, kind)
    is_file = kind is Kind.FILE
    entry = Entry(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if is_file else 0,
        os.readlink(host) if kind is Kind.SYMLINK else "",
        device,
        xattrs,
        FileSource(host) if is_file else None,
    )
    entry = as_recorded(entry, host)
    shared = is_file and status.st_nlink > 1
    return Node(
        entry,
        opaque=opaque,
        identity=(status.st_dev, status.st_ino) if shared else None,
    )


def _xattrs(host: str, kind: Kind) -> tuple[tuple[tuple[str, bytes], ...], bool]:
    """The attributes that travel in layers, and whether this is an opaque directory.

    Most names have none: one call finds that out.
    """
    try:
        names = os.listxattr(host, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return (), False
    if not names:
        return (), False
    return read_xattrs(host), kind is Kind.DIRECTORY and f"{family()}opaque" in names and is_opaque(
        host
    )


class ChangeSetTree:
    """A change set as a tree: what a COPY adds, before it is a layer.

    A deletion is a whiteout; a deleted path that is also an addition is an opaque directory or a
    replaced file. The parents of additions need not be additions themselves.
    """

    def __init__(self, changes: ChangeSet) -> None:
        self._entries = {entry.path: entry for entry in changes.additions}
        self._deleted = frozenset(changes.deletions)
        self._opaque = frozenset(changes.opaque)
        self._linked = {entry.link for entry in changes.additions if entry.kind is Kind.HARDLINK}
        self._names: dict[str, dict[str, None]] = {}
        self._implied: set[str] = {""}
        for path in (*self._entries, *self._deleted, *self._opaque):
            self._announce(path)
        for path in self._deleted:
            self._implied.update(up for up in ancestors(path) if up not in self._deleted)
        for path in (*self._entries, *self._opaque):
            self._implied.update(ancestors(path))
        self._implied |= self._opaque

    def _announce(self, path: str) -> None:
        while path:
            parent, _, name = path.rpartition("/")
            siblings = self._names.setdefault(parent, {})
            if name in siblings:
                return
            siblings[name] = None
            path = parent

    def node(self, path: str, /) -> Node | None:
        """What the change set says at ``path``."""
        opaque = path in self._opaque or path in self._deleted
        entry = self._entries.get(path)
        if entry is None:
            if path in self._implied:
                return Node(Entry(path, Kind.DIRECTORY, 0o755), opaque=opaque, implied=True)
            return WHITEOUT if path in self._deleted else None
        target = entry
        if entry.kind is Kind.HARDLINK and entry.link in self._entries:
            target = self._entries[entry.link]
            entry = target.moved(path)
        shared = target.path in self._linked
        return Node(entry, opaque=opaque, identity=(id(self), target.path) if shared else None)

    def children(self, path: str, /) -> dict[str, Node]:
        """What the change set says in the directory ``path``."""
        found = {name: self.node(join(path, name)) for name in self._names.get(path, ())}
        return {name: node for name, node in found.items() if node is not None}
