"""Removing a tree that a build left: fast, by descriptors, and never beyond it.

What a RUN may leave behind is taken as it comes: directories without permission, immutable and
append-only files, trees deeper than a path can be long. Symlinks are removed, not followed, and a
mount point inside the tree is left alone (openat2 with RESOLVE_NO_XDEV), for what is mounted there is
not ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

_DEEPEST = 60
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_XDEV = 0x01
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_LOCKING_FLAGS = 0x10 | 0x20  # immutable, append only
_REFUSED = (errno.EACCES, errno.EPERM)


def remove_tree(path: Path, check: Callable[[], object] = int) -> bool:
    """Remove ``path`` and everything below it; False if something refused to go.

    What another process removes meanwhile is no failure. ``check`` is called before every directory, and
    may end this by an exception; what is left then has a name that begins as that of ``path`` does.
    """
    try:
        top = os.open(path.parent, _DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        return _Removal(top, path.name, check).remove_all()
    finally:
        os.close(top)


class _Removal:
    """One removal; ``top`` is where branches that grow too deep are hung up to be removed anew."""

    def __init__(self, top: int, name: str, check: Callable[[], object]) -> None:
        self._top = top
        self._name = name
        self._check = check
        self._hung = 0
        self._branches = [name]

    def remove_all(self) -> bool:
        """Remove the name in the top directory, and every branch that is hung up on the way."""
        everything = True
        while self._branches:
            everything &= self.remove(self._top, self._branches.pop(), 0)
        return everything

    def remove(self, parent: int, name: str, depth: int) -> bool:
        """Remove ``name`` in the directory ``parent``, whatever it is."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        if not stat.S_ISDIR(status.st_mode):
            return _insist(parent, name, is_directory=False)
        if depth >= _DEEPEST:
            return self._hang(parent, name)
        return self._remove_directory(parent, name, depth)

    def _remove_directory(self, parent: int, name: str, depth: int) -> bool:
        try:
            directory = _open_directory(parent, name)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            everything = self._empty(directory, depth)
        finally:
            os.close(directory)
        return _insist(parent, name, is_directory=True) and everything

    def _empty(self, directory: int, depth: int) -> bool:
        self._check()
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        everything = True
        for name, is_directory in found:
            if not is_directory:
                try:
                    os.unlink(name, dir_fd=directory)
                except OSError:
                    everything &= self.remove(directory, name, depth + 1)
            else:
                everything &= self.remove(directory, name, depth + 1)
        return everything

    def _hang(self, parent: int, name: str) -> bool:
        self._hung += 1
        branch = f"{self._name[:100]}-{os.getpid()}-{id(self):x}-{self._hung}"
        try:
            os.rename(name, branch, src_dir_fd=parent, dst_dir_fd=self._top)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        self._branches.append(branch)
        return True


def _insist(parent: int, name: str, *, is_directory: bool) -> bool:
    """Unlink; where that is refused, lift what refuses it and try again."""
    remove = os.rmdir if is_directory else os.unlink
    for attempt in range(2):
        try:
            remove(name, dir_fd=parent)
        except FileNotFoundError:
            return True
        except OSError as error:
            if attempt or error.errno not in _REFUSED:
                return False
            _unlock(parent)
            _unlock_name(parent, name)
        else:
            return True
    return False


def _open_directory(parent: int, name: str) -> int:
    """Open for reading; OSError EXDEV for a mount point."""
    try:
        return _open_here(parent, name)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return _open_here(parent, name)


def _open_here(parent: int, name: str) -> int:
    how = (ctypes.c_uint64 * 3)(_DIRECTORY, 0, _RESOLVE_NO_XDEV)
    opened = int(_libc.syscall(_OPENAT2, parent, os.fsencode(name), how, ctypes.sizeof(how)))
    if opened >= 0:
        return opened
    code = ctypes.get_errno()
    if code != errno.ENOSYS:
        raise OSError(code, os.strerror(code), name)
    if os.stat(name, dir_fd=parent, follow_symlinks=False).st_dev != os.fstat(parent).st_dev:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _unlock_name(parent: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except OSError:
        return
    try:
        _unlock(descriptor)
    finally:
        os.close(descriptor)


def _unlock(descriptor: int) -> None:
    """Clear the immutable and append-only flags, and let the owner write in a directory."""
    import fcntl  # noqa: PLC0415  (only for what refuses to go)

    try:
        flags = int.from_bytes(fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))[:4], "little")
        if flags & _LOCKING_FLAGS:
            cleared = (flags & ~_LOCKING_FLAGS).to_bytes(8, "little")
            fcntl.ioctl(descriptor, _SET_FLAGS, cleared)
    except OSError:
        pass
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o700 != 0o700:
            os.fchmod(descriptor, 0o700)
    except OSError:
        pass


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
