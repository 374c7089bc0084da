"""Cache mounts: directories that RUNs of many builds share, and that no layer ever holds.

::

    cache-mounts/<sha256 of the key>/<number>/   an instance: fs/ (what is mounted), about.json, lock

A cache has more than one instance only if builds that do not want to share it ran at once; the next to
come takes any that is free. Whoever uses an instance holds a lock (flock) on it: shared for ``shared``,
exclusive for ``private`` and ``locked``. The kernel drops the lock however its process ends, and what was
written stays: a build that is killed leaves its cache as a build that ends.

An instance appears by rename, with what it was seeded with in it; the cache's directory is locked while
one is chosen or made. The mtime of an instance's lock says when it was last taken or given back.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

from asyncbuild.records import dataclass, field
from asyncbuild.store.disk import explained
from asyncbuild.store.journal import Journal

Sharing: TypeAlias = Literal["shared", "private", "locked"]

DIRECTORY = "cache-mounts"
_TREE = "fs"
_ABOUT = "about.json"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What makes two mounts the same cache: the id, and what a new one starts with.

    ``owner`` is (uid, gid, mode) of a new directory if the mount names any of them; ``seed`` tells the
    content of what it is filled with, and is empty for an empty one. As in BuildKit, mounts that differ
    in these are different caches, whatever their id.
    """

    id: str
    owner: tuple[int, int, int] | None = None
    seed: str = ""

    @property
    def name(self) -> str:
        """The directory's name: 64 hexadecimal digits."""
        text = json.dumps([self.id, self.owner, self.seed])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class CacheInstance:
    """One instance, as `CacheMounts.instances` finds it; times in ns since the epoch."""

    id: str
    path: Path
    created_ns: int
    used_ns: int
    in_use: bool


@dataclass(slots=True)
class TakenCache:
    """An instance in use: ``path`` is what is mounted, ``new`` whether it was made for this use."""

    path: Path
    new: bool
    _lock: int = field(repr=False)

    def give_back(self) -> None:
        """Let others have it; once."""
        if self._lock >= 0:
            with suppress(OSError):
                os.utime(self._lock)
            os.close(self._lock)
            self._lock = -1


class CacheMounts:
    """The cache mounts of the store at ``root``. Blocks; call it in threads."""

    def __init__(self, root: Path, journal: Journal, fresh: Callable[[], Path]) -> None:
        """``fresh`` gives a path on the same file system at which something may be made."""
        self._root = root
        self._journal = journal
        self._directory = root / DIRECTORY
        self._fresh = fresh

    def take_nowait(
        self, key: CacheKey, sharing: Sharing, fill: Callable[[Path], None] | None = None
    ) -> TakenCache | None:
        """An instance to use now; None if the cache is in use and this user, or that one, does not want
        to share it, or if another build is just making it: come again.

        ``fill`` puts into a new instance's empty directory what it starts with.
        """
        with explained(self._root):
            place = self._directory / key.name
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _held(place) as held, self._journal.announced("cache-mount", key.name):
                return self._take_or_make(place, key, sharing, fill) if held else None

    def _take_or_make(
        self, place: Path, key: CacheKey, sharing: Sharing, fill: Callable[[Path], None] | None
    ) -> TakenCache | None:
        operation = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
        numbers = sorted(int(name) for name in os.listdir(place) if name.isdecimal())
        for number in numbers:
            taken = _take(place / str(number), operation, new=False)
            if taken is not None:
                self._restore(taken.path, key)
                return taken
        if sharing == "locked" and numbers:
            return None
        made = self._make(key, fill)
        taken = _take(made, operation, new=True)
        assert taken is not None
        number = next(number for number in range(len(numbers) + 1) if number not in numbers)
        made.rename(place / str(number))
        taken.path = place / str(number) / _TREE
        return taken

    def exists(self, key: CacheKey) -> bool:
        """Whether there is an instance, in use or not."""
        try:
            return any(name.isdecimal() for name in os.listdir(self._directory / key.name))
        except FileNotFoundError:
            return False

    def look_nowait(self, path: Path) -> TakenCache | None:
        """The instance whose ``path`` was mounted, to be read; None while somebody has it for himself."""
        with explained(self._root):
            return _take(path.parent, fcntl.LOCK_SH, new=False)

    def instances(self) -> Iterator[CacheInstance]:
        """Every instance, sorted by path."""
        with explained(self._root):
            for path in sorted(self._directory.glob("*/*/")):
                found = _look(path)
                if found is not None:
                    yield found

    def remove(self, instance: CacheInstance) -> bool:
        """Set an instance aside for the next sweep; False if someone uses it."""
        with explained(self._root), _held(instance.path.parent) as held:
            taken = _take(instance.path, fcntl.LOCK_EX, new=False) if held else None
            if taken is None:
                return False
            try:
                instance.path.rename(self._fresh())
            finally:
                taken.give_back()
            with suppress(OSError):
                instance.path.parent.rmdir()
            return True

    def drop_used_since(self, moment_ns: int) -> None:
        """Set aside what was used after ``moment_ns``: a crash of the machine may have damaged it."""
        for instance in list(self.instances()):
            if instance.used_ns >= moment_ns:
                self.remove(instance)

    def _make(self, key: CacheKey, fill: Callable[[Path], None] | None) -> Path:
        made = self._fresh()
        made.mkdir(mode=0o700)
        tree = made / _TREE
        self._restore(tree, key)
        if fill is not None:
            fill(tree)
        (made / _ABOUT).write_text(json.dumps({"id": key.id, "seed": key.seed}))
        (made / _LOCK).touch(mode=0o600)
        return made

    def _restore(self, tree: Path, key: CacheKey) -> None:
        """Make the directory, empty, if it is missing: it is new, or was lost with a killed RUN that had
        moved it to its place.
        """
        if tree.exists():
            return
        tree.mkdir(mode=0o755)
        uid, gid, mode = key.owner or (0, 0, 0o755)
        if key.owner is not None:
            os.chown(tree, uid, gid)
        tree.chmod(mode)


@contextmanager
def _held(place: Path) -> Iterator[bool]:
    """Lock a cache's directory, unless another process is at it (or removes it) just now: then False."""
    try:
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.stat(place).st_ino == os.fstat(lock).st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        yield held
    finally:
        os.close(lock)


def _take(path: Path, operation: int, *, new: bool) -> TakenCache | None:
    """Lock an instance if that is possible at once."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    os.utime(lock)
    return TakenCache(path / _TREE, new, lock)


def _look(path: Path) -> CacheInstance | None:
    try:
        about = json.loads((path / _ABOUT).read_bytes())
        created = (path / _ABOUT).stat().st_mtime_ns
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        used = os.fstat(lock).st_mtime_ns
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        in_use = False
    except BlockingIOError:
        in_use = True
    finally:
        os.close(lock)
    return CacheInstance(str(about.get("id", "")), path, created, used, in_use)
