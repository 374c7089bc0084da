"""What a crash of the machine may have damaged.

Nothing is fsynced file by file. Instead each item is announced in the journal, in a line that names
the boot of the machine, before it appears by rename; `Journal.sync` writes the whole file system out
and empties the journal. A process that finds lines of another boot knows that the machine went down
before that, and which items to doubt.

Lines are not fsynced either, so a crash may lose some. The first line of a journal is: it says since
when items are in doubt, and the store doubts every item whose inode changed later (a rename sets its
ctime) whether a line names it or not.

Rules of the lock on the journal: shared from announcing an item until it has appeared, exclusive
while the journal is set aside for `Journal.sync`. So an item whose line was set aside has appeared.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncbuild.records import dataclass
from asyncbuild.store.disk import sync_file_system

_NAME = "journal"
_ASIDE = "journal-"
_MARGIN_NS = 2_000_000_000  # the kernel's file times are coarser than its clock


@dataclass(frozen=True, slots=True)
class Doubt:
    """What another boot left: named items ``(kind, name)``, and all that changed since (ns)."""

    items: frozenset[tuple[str, str]]
    since_ns: int

    def covers(self, kind: str, name: str, changed_ns: int) -> bool:
        """Whether an item whose ctime is ``changed_ns`` is in doubt."""
        return changed_ns >= self.since_ns or (kind, name) in self.items


class Journal:
    """The journal of the store at ``root`` under the boot ``boot``."""

    def __init__(self, root: Path, boot: str) -> None:
        self._root = root
        self._path = root / _NAME
        self._boot = boot

    @contextmanager
    def announced(self, kind: str, name: str) -> Iterator[None]:
        """Write the item's line; the item is to appear before the context ends."""
        descriptor = self._open(fcntl.LOCK_SH)
        try:
            first = os.fstat(descriptor).st_size == 0
            line = f"{self._boot} {time.time_ns()} {kind} {name}\n"
            os.write(descriptor, line.encode())
            if first:
                self._make_durable(descriptor)
            yield
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """Write out the file system, and forget what was in doubt before."""
        if not self._files():
            return
        descriptor = self._open(fcntl.LOCK_EX)
        try:
            if os.fstat(descriptor).st_size:
                self._path.rename(self._root / f"{_ASIDE}{os.urandom(8).hex()}")
        finally:
            os.close(descriptor)
        aside = [path for path in self._files() if path != self._path]
        if aside:
            sync_file_system(self._root)
            for path in aside:
                path.unlink(missing_ok=True)

    def doubt(self) -> Doubt | None:
        """What lines of another boot (or unreadable ones) leave in doubt; None if there are none.

        To be asked, and acted on, while no other process uses the store.
        """
        items: set[tuple[str, str]] = set()
        since: list[int] = []
        for path in self._files():
            for line in path.read_text(errors="replace").splitlines():
                boot, when, kind, name = (line.split(" ", 3) + [""] * 4)[:4]
                if boot == self._boot and when.isdigit():
                    continue
                items.add((kind, name))
                since.append(int(when) if when.isascii() and when.isdigit() else 0)
        return Doubt(frozenset(items), min(since) - _MARGIN_NS) if since else None

    def settle(self) -> None:
        """Forget everything: called once what was in doubt is verified or gone."""
        sync_file_system(self._root)
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        aside = sorted(self._root.glob(f"{_ASIDE}*"))
        return [*aside, self._path] if self._path.exists() else aside

    def _open(self, lock: int) -> int:
        """The journal, locked, and certainly the one that is at its place."""
        while True:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            fcntl.flock(descriptor, lock)
            try:
                here, there = os.fstat(descriptor), os.stat(self._path)
            except FileNotFoundError:
                there = None
            if there is not None and here.st_ino == there.st_ino:
                return descriptor
            os.close(descriptor)

    def _make_durable(self, descriptor: int) -> None:
        os.fsync(descriptor)
        directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
