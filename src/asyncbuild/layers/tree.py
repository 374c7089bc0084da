"""One layer as a directory in the format of overlayfs lower layers, written entry by entry.

What stands in the directory afterwards is what a runtime gets that applies the layer's entries in their
order onto what lies below, as far as the layer alone decides that; the rest is in its `UnpackedFacts`.

1. A later entry replaces an earlier one of another kind; a directory keeps its content.
2. A whiteout is a character device 0/0, or what stands for one (`asyncbuild.layers.marks`). Content of
   the same layer wins over its own whiteout, before it or after it; where that content is a directory
   it becomes opaque. So does a directory that replaces something else of this layer, which had hidden
   all below.
3. A name below a symlink of this layer reaches the link's target, inside the root.
4. Directories get their attributes last. Those without an entry are 0755, 0:0, from the epoch.
5. Everything is done relative to descriptors of directories below the root, and nothing is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, Self

from asyncbuild.errors import LayerError, StoreError
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.dressing import dress, dress_open, umask
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.marks import is_whiteout, make_opaque, make_whiteout
from asyncbuild.layers.records import (
    make_device,
    mode_on_disk,
    record,
    record_in,
    records,
)
from asyncbuild.layers.rooted import Directory, link_text, open_directory
from asyncbuild.layers.xattrs import set_xattrs

CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a new file is opened."""
_OPEN_DIRECTORIES: Final = 200
_MAX_LINKS: Final = 255  # as containerd (continuity/fs RootPath)
_WHITEOUT: Final = os.makedev(0, 0)
_SPECIAL: Final = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
_NO_WAY: Final = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


class LayerTree:
    """Writes one layer below ``destination``, an empty directory that no one else touches.

    A context manager. `finish` sets the attributes of directories and gives the facts; without it the
    directory is not to be used.
    """

    def __init__(self, destination: str, *, by_kernel: bool = True) -> None:
        self._by_kernel = by_kernel
        self._root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: dict[str, Directory] = {}
        self._directories: dict[str, Entry | None] = {"": None}
        self._fresh: set[str] = set()
        self._outside: dict[str, Entry] = {}
        self._entries = 0
        self._size = 0
        self._owner = (os.geteuid(), os.getegid())
        self._masked = umask()
        try:
            _prepare(self._root, destination)
        except BaseException:
            os.close(self._root)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_open()
        os.close(self._root)

    # --- files --------------------------------------------------------------------------------------

    def create(self, entry: Entry) -> int:
        """Make the file ``entry``; a descriptor to write its content to, which `seal` then takes."""
        head, _, name = entry.path.rpartition("/")
        directory = self._open.get(head) or self._directory(head)
        if not name:
            raise LayerError("the root itself cannot be a file")
        mode = entry.mode & 0o777
        try:
            descriptor = os.open(name, CREATE, mode, dir_fd=directory.descriptor)
        except FileExistsError:
            self._remove(directory, name)
            descriptor = os.open(name, CREATE, mode, dir_fd=directory.descriptor)
        if self._outside:
            self._outside.pop(directory.below(name), None)
        self._entries += 1
        self._size += entry.size
        return descriptor

    def seal(self, descriptor: int, entry: Entry) -> None:
        """Give a file that `create` made its attributes, in the order that keeps them all.

        Ownership drops set-user-id bits and capabilities, so it comes first; times come last.
        """
        mode = mode_on_disk(entry)
        if records():
            record(descriptor, entry)
        elif self.is_others(entry.uid, entry.gid):
            os.fchown(descriptor, entry.uid, entry.gid)
        if self.is_cut(mode):
            os.fchmod(descriptor, mode)
        if entry.xattrs:
            set_xattrs(descriptor, entry.xattrs)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def is_others(self, uid: int, gid: int) -> bool:
        """Whether a new file has another owner than this."""
        return (uid, gid) != self._owner

    def is_cut(self, mode: int) -> bool:
        """Whether a new file of this mode has a part of it only."""
        return mode > 0o777 or mode & self._masked != 0

    @property
    def has_links_outside(self) -> bool:
        """Whether names are noted that only `create` and `add` can take back."""
        return bool(self._outside)

    def directory(self, path: str) -> int:
        """A descriptor for the directory ``path``, made if it is missing; good until the next call of a
        method.
        """
        return self._directory(path).descriptor

    def make_room(self, head: str, name: str) -> None:
        """Remove what stands at ``name`` in the directory ``head``."""
        self._remove(self._directory(head), name)

    def count(self, entries: int, size: int) -> None:
        """Files of ``size`` bytes were made in directories of this tree by another than `create`."""
        self._entries += entries
        self._size += size

    # --- everything else ----------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Make a directory, a link, a device or a fifo."""
        self._entries += 1
        head, _, name = entry.path.rpartition("/")
        if not name:
            if entry.kind is not Kind.DIRECTORY:
                raise LayerError(f"the root itself cannot be a {entry.kind.name.lower()}")
            self._directories[""] = entry
            return
        directory = self._open.get(head) or self._directory(head)
        if entry.kind is Kind.DIRECTORY:
            self._make_directory(directory, name, entry)
        elif entry.kind is Kind.HARDLINK:
            self._make_hardlink(directory, name, entry)
        else:
            self._outside.pop(directory.below(name), None)
            try:
                self._make(directory, name, entry)
            except FileExistsError:
                self._remove(directory, name)
                self._make(directory, name, entry)

    def dress(self, entry: Entry) -> None:
        """Give the file that a hard link was made to the attributes of the link's ``entry``; a symlink gets
        its owner alone. The target may be outside: then nothing stands here.
        """
        head, _, name = entry.path.rpartition("/")
        dress(self._directory(head).descriptor, name, entry)

    def _make(self, directory: Directory, name: str, entry: Entry) -> None:
        here = directory.descriptor
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=here)
        else:
            if entry.kind is Kind.CHARACTER_DEVICE and os.makedev(*entry.device) == _WHITEOUT:
                raise LayerError(
                    f"{entry.path!r} is a character device 0/0: that would hide a file in overlayfs"
                )
            if not make_device(name, here, _SPECIAL[entry.kind], entry):
                return
        if records():
            record_in(here, name, entry)
        elif (entry.uid, entry.gid) != self._owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=here, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(name, mode_on_disk(entry), dir_fd=here)  # just made, and no link
        if entry.xattrs:
            set_xattrs(f"/proc/self/fd/{here}/{name}", entry.xattrs)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=here, follow_symlinks=False)

    def _make_directory(self, directory: Directory, name: str, entry: Entry | None) -> None:
        path = directory.below(name)
        opaque = self._outside.pop(path, None) is not None
        try:
            os.mkdir(name, 0o700, dir_fd=directory.descriptor)
        except FileExistsError:
            if path in self._directories:
                self._directories[path] = entry or self._directories[path]
                return
            self._remove(directory, name)
            os.mkdir(name, 0o700, dir_fd=directory.descriptor)
            opaque = True
        self._directories[path] = entry
        if opaque:
            self._hide_below(path)

    def _make_hardlink(self, directory: Directory, name: str, entry: Entry) -> None:
        path = directory.below(name)
        target = self._link_target(entry)
        if target is None:
            if entry.link not in (path, entry.path):
                self._remove(directory, name, missing_ok=True)
                self._outside[path] = entry.moved(path)
            return
        where, base = target
        try:
            if where.below(base) != path:
                self._link(where, base, directory, name)
        finally:
            os.close(where.descriptor)

    def _link(self, where: Directory, base: str, directory: Directory, name: str) -> None:
        here = directory.descriptor
        source = os.stat(base, dir_fd=where.descriptor, follow_symlinks=False)
        try:
            os.link(base, name, src_dir_fd=where.descriptor, dst_dir_fd=here, follow_symlinks=False)
        except FileExistsError:
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == (source.st_dev, source.st_ino):
                return
            self._remove(directory, name)
            os.link(base, name, src_dir_fd=where.descriptor, dst_dir_fd=here, follow_symlinks=False)
        self._outside.pop(directory.below(name), None)

    def _link_target(self, entry: Entry) -> tuple[Directory, str] | None:
        """Where the target of a hardlink stands in this layer (the caller closes it); None if not."""
        head, _, base = entry.link.rpartition("/")
        if not base:
            raise LayerError(f"{entry.path!r} is a hardlink to the root")
        try:
            path = self._resolve(head, make=False)
            where = Directory(open_directory(self._root, path, by_kernel=self._by_kernel), path)
        except OSError as error:
            if error.errno in _NO_WAY:
                return None
            raise
        try:
            found = os.stat(base, dir_fd=where.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        at = f"/proc/self/fd/{where.descriptor}/{base}"
        if found is None or is_whiteout(found, at):
            os.close(where.descriptor)
            return None
        if stat.S_ISDIR(found.st_mode):
            os.close(where.descriptor)
            raise LayerError(f"{entry.path!r} is a hardlink to the directory {entry.link!r}")
        return where, base

    # --- hiding what lies below ---------------------------------------------------------------------

    def whiteout(self, path: str) -> None:
        """Hide what lies below at ``path``; what this layer itself has there stays."""
        self._entries += 1
        head, _, name = path.rpartition("/")
        if not name:
            raise LayerError("a whiteout of the root")
        directory = self._open.get(head) or self._directory(head)
        try:
            make_whiteout(name, directory.descriptor)
        except FileExistsError:
            if directory.below(name) in self._directories:
                self._hide_below(directory.below(name))

    def opaque(self, path: str) -> None:
        """Hide everything that lies below in the directory ``path``, which keeps its attributes."""
        self._entries += 1
        make_opaque(self._directory(path).descriptor)

    def _hide_below(self, path: str) -> None:
        """Make the directory ``path`` a new one, of which nothing below is seen, attributes included."""
        self._fresh.add(path)
        descriptor = open_directory(self._root, path, by_kernel=self._by_kernel)
        try:
            make_opaque(descriptor)
        finally:
            os.close(descriptor)

    # --- directories --------------------------------------------------------------------------------

    def _directory(self, path: str) -> Directory:
        """The directory that ``path`` names, kept open; made with its parents if it is missing."""
        known = self._open.get(path)
        if known is not None:
            return known
        if len(self._open) >= _OPEN_DIRECTORIES:
            self._forget_open()
        try:
            found = Directory(open_directory(self._root, path, by_kernel=self._by_kernel), path)
        except OSError as error:
            if error.errno not in _NO_WAY:
                raise
            real = self._resolve(path, make=True)
            found = Directory(open_directory(self._root, real, by_kernel=self._by_kernel), real)
        self._open[path] = found
        return found

    def _resolve(self, path: str, *, make: bool) -> str:
        """``path`` with the symlinks of this layer resolved inside the root.

        A component that is missing is made, or is ENOENT. The names that are looked at are always
        below directories that were seen to be no links, and no one else writes here.
        """
        todo = path.split("/")[::-1]
        done: list[str] = []
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                del done[-1:]
                continue
            here = "/".join([*done, name])
            if here not in self._directories:
                target = link_text(self._root, here)
                if target is not None:
                    links += 1
                    if links > _MAX_LINKS:
                        raise LayerError(f"{path!r}: too many symbolic links on the way (a loop?)")
                    if target.startswith("/"):
                        done.clear()
                    todo.extend(target.split("/")[::-1])
                    continue
                self._step(here, make=make)
            done.append(name)
        return "/".join(done)

    def _step(self, path: str, *, make: bool) -> None:
        """Make sure that ``path``, whose parent is a directory and which is no link, is one."""
        try:
            found = os.stat(path, dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        at = f"/proc/self/fd/{self._root}/{path}"
        if found is not None and not is_whiteout(found, at):
            raise LayerError(f"{path!r} is no directory, but the tar has entries below it")
        if not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        head, _, name = path.rpartition("/")
        above = Directory(open_directory(self._root, head, by_kernel=self._by_kernel), head)
        try:
            self._make_directory(above, name, None)
        finally:
            os.close(above.descriptor)

    def _remove(self, directory: Directory, name: str, *, missing_ok: bool = False) -> None:
        """Remove what stands at ``name``, a directory with all that is in it."""
        path = directory.below(name)
        if path not in self._directories:
            try:
                is_link = stat.S_ISLNK(
                    os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False).st_mode
                )
                os.unlink(name, dir_fd=directory.descriptor)
            except FileNotFoundError:
                if not missing_ok:
                    raise
                return
            if is_link:
                self._forget_open(but=directory)
            return
        inside = f"{path}/"
        for other in sorted(self._directories, reverse=True):
            if other == path or other.startswith(inside):
                self._remove_directory(other)
        for other in [other for other in self._outside if other.startswith(inside)]:
            del self._outside[other]
        self._forget_open(but=directory)

    def _remove_directory(self, path: str) -> None:
        descriptor = open_directory(self._root, path, by_kernel=self._by_kernel)
        try:
            for name in os.listdir(descriptor):
                os.unlink(name, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(path, dir_fd=self._root)
        del self._directories[path]
        self._fresh.discard(path)

    def _forget_open(self, but: Directory | None = None) -> None:
        for directory in self._open.values():
            if directory is not but:
                os.close(directory.descriptor)
        self._open.clear()
        if but is not None:
            self._open[but.path] = but

    # --- the end ------------------------------------------------------------------------------------

    def finish(self) -> UnpackedFacts:
        """Link what was linked before its target came, set directories' attributes; the facts."""
        for outside in list(self._outside.values()):
            self._link_late(outside)
        for path in sorted(self._directories, reverse=True):
            entry = self._directories[path] or Entry(path, Kind.DIRECTORY, 0o755)
            descriptor = open_directory(self._root, path, by_kernel=self._by_kernel)
            try:
                dress_open(descriptor, entry)
            finally:
                os.close(descriptor)
        implicit = (p for p, entry in self._directories.items() if entry is None)
        links = tuple(self._outside[path] for path in sorted(self._outside))
        return UnpackedFacts(
            tuple(sorted(path for path in implicit if path not in self._fresh)),
            tuple((entry.path, entry.link) for entry in links),
            self._entries,
            self._size,
            links,
        )

    def _link_late(self, entry: Entry) -> None:
        head, _, name = entry.path.rpartition("/")
        found = self._link_target(entry)
        if found is None:
            return
        where, base = found
        try:
            self._link(where, base, self._directory(head), name)
        finally:
            os.close(where.descriptor)


def _prepare(root: int, destination: str) -> None:
    if os.listdir(root):
        raise StoreError(f"{destination} is not empty: a layer needs a directory of its own")
    # A set-group-id bit here would change the group of what is made below.
    if not records():
        os.fchown(root, 0, 0)
    os.fchmod(root, 0o700)
