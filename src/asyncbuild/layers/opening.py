"""Opening a file that goes into a layer."""

from __future__ import annotations

import os
from typing import Final

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
