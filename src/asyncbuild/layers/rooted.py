"""Directories below a root, opened so that nothing outside the root can be reached.

The kernel resolves (``openat2`` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, Linux 5.6). Where it does
not know the call or a sandbox forbids it, the components are opened one by one without following.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from asyncbuild.records import dataclass

_SYS_OPENAT2: Final = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_HOW: Final = struct.pack(
    "QQQ", _DIRECTORY, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
)
_UNAVAILABLE: Final = (errno.ENOSYS, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Directory:
    """An open directory, and its path when every symlink on the way is resolved."""

    descriptor: int
    path: str

    def below(self, name: str) -> str:
        """The path of a name in it."""
        return f"{self.path}/{name}" if self.path else name


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)


def open_directory(root: int, path: str, *, by_kernel: bool = True) -> int:
    """A descriptor of the directory ``path`` below the open directory ``root``; "" is ``root`` again.

    OSError where a component is missing (ENOENT), a symlink (ELOOP, ENOTDIR) or no directory
    (ENOTDIR). ``by_kernel=False`` is the way for kernels without openat2.
    """
    if not path:
        return os.open(".", _DIRECTORY, dir_fd=root)
    if by_kernel:
        name = path.encode("utf-8", "surrogateescape")
        descriptor: int = _syscall(_SYS_OPENAT2, root, name, _HOW, len(_HOW))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number not in _UNAVAILABLE:
            raise OSError(number, os.strerror(number), path)
    return _step_by_step(root, path)


def link_text(root: int, path: str) -> str | None:
    """Where the symlink ``path`` below the open directory ``root`` leads; None if it is none."""
    try:
        return os.readlink(path, dir_fd=root)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _step_by_step(root: int, path: str) -> int:
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    here = os.dup(root)
    try:
        for name in path.split("/"):
            below = os.open(name, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here
