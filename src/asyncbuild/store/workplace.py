"""Each process's own place in the store: what it makes before it appears by rename.

``tmp/<owner>/`` belongs to one process, which holds a lock (flock) on the file ``lock`` in it for as
long as it lives; the kernel drops the lock however the process ends. Whoever opens the store renames
the places whose lock is free to ``tmp/dead-*``, and removes those at leisure.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Callable
from pathlib import Path

from asyncbuild.store.removal import remove_tree

_DEAD = "dead-"
_LOCK = "lock"


class Workplace:
    """The place of this process in ``tmp``; made while the store is locked against other openers."""

    def __init__(self, tmp: Path) -> None:
        self._tmp = tmp
        self.path = tmp / os.urandom(8).hex()
        self.path.mkdir(mode=0o700)
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._numbers = itertools.count(1)

    def fresh(self, purpose: str) -> Path:
        """A path that nobody has used; nothing is there yet."""
        return self.path / f"{purpose}-{next(self._numbers)}"

    def directory(self, purpose: str, *inside: str) -> Path:
        """A new directory, with the directories ``inside``."""
        path = self.fresh(purpose)
        path.mkdir(mode=0o700)
        for name in inside:
            (path / name).mkdir(mode=0o755)
        return path

    def discard(self, path: Path) -> None:
        """Give up what this process made; it is removed at the next `remove_dead`."""
        with contextlib.suppress(FileNotFoundError):
            path.rename(self._tmp / f"{_DEAD}{os.urandom(8).hex()}")

    def close(self) -> None:
        """Give up everything."""
        if self._lock >= 0:
            self.discard(self.path)
            os.close(self._lock)
            self._lock = -1


def bury_dead(tmp: Path) -> None:
    """Set aside the places of processes that have ended; the store is locked meanwhile."""
    for path in tmp.iterdir():
        if not path.name.startswith(_DEAD) and _is_dead(path):
            with contextlib.suppress(OSError):  # what refuses to be moved is tried again next time
                path.rename(tmp / f"{_DEAD}{path.name}")


def remove_dead(tmp: Path, check: Callable[[], object] = int) -> int:
    """Remove what was set aside; the number of trees that are gone. It may take a while; ``check`` may
    end it by an exception.
    """
    dead = [path for path in tmp.iterdir() if path.name.startswith(_DEAD)]
    return sum(remove_tree(path, check) for path in dead)


def _is_dead(path: Path) -> bool:
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
