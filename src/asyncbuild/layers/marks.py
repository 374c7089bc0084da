"""The marks by which overlayfs hides what lies below: opaque directories and whiteouts.

See ``Documentation/filesystems/overlayfs.rst`` ("whiteouts and opaque directories", "User xattr").

1. An opaque directory has the extended attribute ``trusted.overlay.opaque`` = ``y``. Who lacks
   CAP_SYS_ADMIN in the machine's own user namespace can neither set nor see it, and uses
   ``user.overlay.opaque``, which an overlay honours that is mounted with ``userxattr``. A process knows one
   family and takes no notice of the other: their directories are kept apart (`form`).
2. A whiteout is a character device 0/0, which anyone may make since Linux 5.8. Where that is refused, it is
   an empty file of mode 0 with the attribute ``overlay.whiteout``, in a directory whose ``overlay.opaque``
   is ``x`` (overlayfs takes these since Linux 6.7).
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cache
from typing import Final

_TRUSTED: Final = "trusted.overlay."
_USER: Final = "user.overlay."
_REFUSED: Final = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_NOT_THERE: Final = (errno.ENODATA, errno.ENOTSUP)


@cache
def family() -> str:
    """How the names of this process's marks begin: ``trusted.overlay.`` or ``user.overlay.``.

    The kernel asks for the capability before it asks the file system: any file can tell.
    """
    try:
        probe = os.memfd_create("asyncbuild-xattr")
    except OSError:
        return _USER
    try:
        os.setxattr(probe, f"{_TRUSTED}probe", b"")
    except OSError as error:
        return _USER if error.errno in (errno.EPERM, errno.ENOSYS) else _TRUSTED
    finally:
        os.close(probe)
    return _TRUSTED


def form() -> str:
    """What directories with this process's marks are kept under, apart from others; empty for
    ``trusted.``.
    """
    return "" if family() == _TRUSTED else "user"


def is_opaque(path: str | int) -> bool:
    """Whether overlayfs hides what lies below the directory ``path`` (not followed)."""
    return _read(path, "opaque") == b"y"


def make_opaque(directory: str | int) -> None:
    """Let overlayfs hide what lies below ``directory``, a path or an open descriptor."""
    os.setxattr(directory, f"{family()}opaque", b"y")


def make_whiteout(name: str, directory: int) -> None:
    """Hide ``name`` in the directory that ``directory`` (a descriptor) is open on.

    Raises FileExistsError if something stands there.
    """
    try:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        _make_file_whiteout(name, directory)


def _make_file_whiteout(name: str, directory: int) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        os.setxattr(made, f"{family()}whiteout", b"y")
        os.fchmod(made, 0)
    finally:
        os.close(made)
    if not is_opaque(directory):
        os.setxattr(directory, f"{family()}opaque", b"x")


def is_whiteout(found: os.stat_result, path: str) -> bool:
    """Whether ``path`` (not followed), whose lstat is ``found``, hides the name and what is below it."""
    if stat.S_ISCHR(found.st_mode):
        return found.st_rdev == 0
    if found.st_size or found.st_mode != stat.S_IFREG:
        return False
    return _read(path, "whiteout") is not None


def _read(path: str | int, mark: str) -> bytes | None:
    try:
        return os.getxattr(path, f"{family()}{mark}", follow_symlinks=isinstance(path, int))
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
