"""Whether a part of a context can be shown as it stands on disk, without copying anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from asyncbuild.context.directory import DirectoryContext
from asyncbuild.errors import InputError
from asyncbuild.records import dataclass


@dataclass(frozen=True, slots=True)
class AsItIs:
    """A real file or directory that is exactly what the context has, but for its ``owner`` (uid, gid).

    In a context everything belongs to root; on disk all of this belongs to one owner.
    """

    path: Path
    owner: tuple[int, int]


def as_it_is(context: DirectoryContext, path: str) -> AsItIs | None:
    """What stands for ``path`` (clean, without links) in ``context``; None if only a copy can.

    That is so if the ignore file leaves something out, or if the owners differ, or count. Reads all
    directories below: call it in a thread. `InputError` if one cannot be read.
    """
    root = context.root
    if root is None or context.owned:
        return None
    host = f"{root}/{path}" if path else root
    try:
        status = os.lstat(host)
        owner = (status.st_uid, status.st_gid)
        if stat.S_ISDIR(status.st_mode) and not _is_whole(context, host, path, owner):
            return None
    except OSError as error:
        raise InputError(
            f"cannot read the build context: {error.strerror}: {error.filename}"
        ) from None
    return None if context.ignored.excluded(path) else AsItIs(Path(host), owner)


def _is_whole(context: DirectoryContext, host: str, path: str, owner: tuple[int, int]) -> bool:
    excluded = context.ignored.excluded
    pending = [(host, path)]
    while pending:
        directory, where = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                inside = f"{where}/{entry.name}" if where else entry.name
                status = entry.stat(follow_symlinks=False)
                if excluded(inside) or (status.st_uid, status.st_gid) != owner:
                    return False
                if stat.S_ISDIR(status.st_mode):
                    pending.append((entry.path, inside))
    return True
