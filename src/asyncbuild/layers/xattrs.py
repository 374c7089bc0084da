"""Extended attributes: which ones travel in layers, and how they are read and set.

``user.*``, ``security.capability``, POSIX access lists and ``trusted.*`` belong to a file. The others
belong to the machine it is on (SELinux labels, IMA) and stay there, in both directions. What overlayfs
keeps for itself (``trusted.overlay.*``, ``user.overlay.*``) is never read from a layer nor written to
one (see `asyncbuild.layers.marks`): a layer that could set it could redirect or hide files of others. Nor
is what we keep there ourselves (`asyncbuild.layers.records`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final

from asyncbuild.layers.records import PREFIX, records

_OVERLAY: Final = ("trusted.overlay.", "user.overlay.", PREFIX)
_FAMILIES: Final = ("user.", "trusted.")
_SINGLE: Final = (
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
)


def travels(name: str) -> bool:
    """Whether the attribute ``name`` belongs into a layer."""
    return name in _SINGLE or (name.startswith(_FAMILIES) and not name.startswith(_OVERLAY))


def read_xattrs(path: str | int) -> tuple[tuple[str, bytes], ...]:
    """The attributes of ``path`` (not followed) or of a descriptor that travel, sorted by name."""
    follow = isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=follow))
        for name in sorted(names)
        if travels(name)
    )


def set_xattrs(path: str | int, xattrs: Iterable[tuple[str, bytes]]) -> None:
    """Set those of ``xattrs`` that travel on ``path`` (not followed) or on a descriptor.

    A file system that has no such attributes, or does not have them on this kind of file, loses
    them, as under containerd.
    """
    follow = isinstance(path, int)
    for name, value in xattrs:
        if not travels(name):
            continue
        try:
            os.setxattr(path, name, value, follow_symlinks=follow)
        except OSError as error:
            refused = error.errno == errno.EPERM and (name.startswith(_FAMILIES) or records())
            if error.errno != errno.ENOTSUP and not refused:
                raise
