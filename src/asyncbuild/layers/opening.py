"""Opening a file that goes into a layer, and refusing one that is not what it was."""

from __future__ import annotations

import os
import stat
from typing import Final, NoReturn

from asyncbuild.errors import InputError

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_source(path: str) -> int:
    """A descriptor to read the file ``path``, which is not followed; `InputError` if it cannot be.

    A context is not to be changed, not even in its access times, where we may say so.
    """
    try:
        try:
            return os.open(path, _OPEN | os.O_NOATIME)
        except PermissionError:
            return os.open(path, _OPEN)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def refuse_changed(descriptor: int, path: str, size: int) -> NoReturn:
    """Raise the `InputError` for an open file that does not hold ``size`` bytes any more."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is not a regular file any more")
    raise InputError(
        f"{path} changed while the build read it: {found.st_size} bytes, and {size} before",
        hint="files that are written to while the build runs cannot be copied",
    )
