"""A stage's files in one plain directory, for places where nothing can be mounted.

The directory shows what an overlay of the same layers would. Files of the store are copied (their blocks
are shared where the file system can), never linked: a RUN may write to them in place. Names of one file
stay names of one file. What a COPY adds is applied to the directory as it stands.

Everything blocks; it belongs to one process, and nothing else writes there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, Kind
from asyncbuild.layers.marks import is_opaque, is_whiteout
from asyncbuild.layers.materialise import copy_file, materialise
from asyncbuild.layers.records import make_device_at
from asyncbuild.layers.snapshot import entry_of
from asyncbuild.layers.xattrs import set_xattrs
from asyncbuild.records import replace
from asyncbuild.rootfs.reserved import NOTHING, Reserved
from asyncbuild.rootfs.view import DirectoryTree, View

_SPECIAL = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}


def make_root(layers: list[str], tree: str) -> None:
    """Make the empty directory ``tree`` show ``layers`` (topmost first, in overlayfs's format)."""
    write_tree(View([DirectoryTree(path) for path in layers]), "", tree)


def write_tree(view: View, path: str, target: str) -> None:
    """Write what ``view`` has at ``path`` to ``target``: an empty directory, or no file yet."""
    found = list(view.walk(path, hardlinks=True))
    if not found:
        raise FileNotFoundError(2, os.strerror(2), f"/{path}")
    top, cut = found[0], len(path) + 1 if path else 0
    if top.kind is not Kind.DIRECTORY:
        write_entry(top, target)
        return
    inside = (
        replace(entry, path=entry.path[cut:], link=_shifted(entry, cut)) for entry in found[1:]
    )
    materialise(ChangeSet.of(inside), target)
    set_attributes(top, target)


def _shifted(entry: Entry, cut: int) -> str:
    return entry.link[cut:] if entry.kind is Kind.HARDLINK else entry.link


def write_entry(entry: Entry, target: str) -> None:
    """Make a file, link, device or fifo at ``target``, where nothing is, with all its attributes."""
    if entry.kind is Kind.SYMLINK:
        os.symlink(entry.link, target)
    elif entry.kind is Kind.FILE:
        assert isinstance(entry.source, FileSource)
        made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            copy_file(entry.source.path, made, entry.size)
        finally:
            os.close(made)
    elif not make_device_at(target, _SPECIAL[entry.kind], entry):
        return
    set_attributes(entry, target)


def set_attributes(entry: Entry, target: str) -> None:
    """Owner first (it drops set-id bits and capabilities), times last."""
    os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind is not Kind.SYMLINK:
        os.chmod(target, entry.mode)
    set_xattrs(target, entry.xattrs)
    os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def apply_layer(layer: str, tree: str, reserved: Reserved = NOTHING) -> None:
    """Let ``tree`` show the layer (in overlayfs's format) on top of what it shows, but what is reserved."""
    _Applying(layer, tree, reserved).apply()


class _Applying:
    """One layer on its way onto a tree; directories get their attributes last, children first."""

    def __init__(self, layer: str, tree: str, reserved: Reserved) -> None:
        self._layer = layer
        self._tree = tree
        self._reserved = reserved
        self._linked: dict[tuple[int, int], str] = {}
        self._directories: list[Entry] = []

    def apply(self) -> None:
        """Every name of the layer, parents first."""
        pending = [""]
        while pending:
            directory = pending.pop()
            with os.scandir(self._source(directory)) as found:
                names = sorted(item.name for item in found)
            for name in names:
                path = f"{directory}/{name}" if directory else name
                if self._add(path):
                    pending.append(path)
        for entry in reversed(self._directories):
            set_attributes(entry, self._target(entry.path))

    def _source(self, path: str) -> str:
        return f"{self._layer}/{path}" if path else self._layer

    def _target(self, path: str) -> str:
        return f"{self._tree}/{path}"

    def _add(self, path: str) -> bool:
        """Apply one name; whether it is a directory, whose names come later."""
        source, target = self._source(path), self._target(path)
        status = os.lstat(source)
        if path in self._reserved.names:
            return False
        if is_whiteout(status, source):
            self._clear(path)
            return False
        entry = entry_of(self._layer, path, status)
        if entry is None:
            return False
        if entry.kind is Kind.DIRECTORY:
            if is_opaque(source) or not _is_directory(target):
                self._clear(path)
                if path not in self._reserved.leading:
                    os.mkdir(target, 0o700)
            self._directories.append(entry)
            return True
        remove(target)
        key = (status.st_dev, status.st_ino)
        first = self._linked.get(key) if status.st_nlink > 1 else None
        if first is not None:
            os.link(first, target, follow_symlinks=False)
        else:
            write_entry(entry, target)
            self._linked[key] = target
        return False

    def _clear(self, path: str) -> None:
        """Remove what stands at ``path``, but for what is reserved in it and the way there."""
        if path not in self._reserved.leading:
            remove(self._target(path))
            return
        for name in os.listdir(self._target(path)):
            if f"{path}/{name}" not in self._reserved.names:
                self._clear(f"{path}/{name}")


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def remove(path: str, check: Callable[[], object] = int) -> None:
    """Remove what stands at ``path``, if anything does, with all that is in it; links are not followed."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except FileNotFoundError:
        return
    check()
    for name in os.listdir(path):
        remove(os.path.join(path, name), check)
    os.rmdir(path)


def copy_tree(source: str, target: str, owner: tuple[int, int] | None = None) -> None:
    """Copy a file or directory as it stands; what belongs to ``owner`` becomes root's."""
    base = Path(source)
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode):
        entry = entry_of(str(base.parent), base.name, status)
        if entry is not None:
            write_entry(_as_root(entry, owner), target)
        return
    os.mkdir(target, 0o700)
    directories = []
    for entry in View([DirectoryTree(source)]).walk(""):
        own = _as_root(entry, owner)
        where = f"{target}/{entry.path}" if entry.path else target
        if own.kind is Kind.DIRECTORY:
            if entry.path:
                os.mkdir(where, 0o700)
            directories.append((own, where))
        else:
            write_entry(own, where)
    for own, where in reversed(directories):
        set_attributes(own, where)


def _as_root(entry: Entry, owner: tuple[int, int] | None) -> Entry:
    if owner is None or (entry.uid, entry.gid) != owner:
        return entry
    return replace(entry, uid=0, gid=0)
