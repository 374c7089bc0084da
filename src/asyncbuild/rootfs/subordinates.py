"""Subordinate ids: which user and group numbers this user may map into a user namespace (subuid(5))."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from asyncbuild.records import dataclass


@dataclass(frozen=True, slots=True)
class IdRange:
    """``count`` numbers of this machine from ``first`` on."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Subordinates:
    """The ranges in ``/etc/subuid`` and ``/etc/subgid``, and the two programs that may map them.

    A program is empty where there is none.
    """

    users: tuple[IdRange, ...] = ()
    groups: tuple[IdRange, ...] = ()
    newuidmap: str = ""
    newgidmap: str = ""

    def __bool__(self) -> bool:
        return bool(self.users and self.groups and self.newuidmap and self.newgidmap)


def find_subordinates(etc: Path = Path("/etc")) -> Subordinates:
    """Those of the user that this process runs as."""
    uid = os.geteuid()
    names = {str(uid)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    return Subordinates(
        tuple(_ranges(etc / "subuid", names)),
        tuple(_ranges(etc / "subgid", names)),
        shutil.which("newuidmap") or "",
        shutil.which("newgidmap") or "",
    )


def _ranges(path: Path, names: set[str]) -> Iterator[IdRange]:
    """The lines ``name:first:count`` of one of ``names``; others, and damaged ones, are passed over."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in names and first.isdecimal() and count.isdecimal() and int(count) > 0:
            yield IdRange(int(first), int(count))
