"""Fingerprints: what a file is, for cache keys, without its times.

A file's content is hashed once and remembered with what the kernel says of it (device, inode, size,
mtime, ctime): an unchanged file of an unchanged context is not read again. A file whose times are as
young as the hashing itself is not remembered, since it could change again within the clock's grain.

A key and a layer must be of the same bytes, and a file is read for each of them. So each is looked at again
when it was read; what a step made of one that has changed meanwhile is not to be kept under its key. (What
the kernel does not tell, a change within a tick of its clock that keeps the size, is not found.)
"""

from __future__ import annotations

import hashlib
import marshal
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from asyncbuild.context.sources import CopySource
from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, InlineSource, Kind

_FORMAT = "asyncbuild stat cache 1"
_BUFFER = 1 << 20
_GRAIN_NS = 2_000_000_000
Stat = tuple[int, int, int, int, int]
Fingerprint = tuple[object, ...]


class ContentDigests:
    """Digests of files' contents, with a memory on disk; ``path`` is a file of our own, None for none.

    It is written to what ``fresh`` gives, an empty directory on the same file system, and renamed. Used by
    one thread at a time.
    """

    def __init__(self, path: Path | None = None, fresh: Callable[[], Path] | None = None) -> None:
        self._path = path
        self._fresh = fresh
        self._known: dict[str, tuple[Stat, bytes]] = _load(path)
        self._kept: dict[str, tuple[Stat, bytes]] = {}
        self._buffer = memoryview(bytearray(_BUFFER))
        self._seen: dict[str, Stat] = {}
        self._changed: set[str] = set()
        self._own = None if path is None else f"{path.parent}/"
        self.read = 0

    def note(self, changes: ChangeSet) -> None:
        """Look at the files that ``changes`` will be read from, unless that was done for their key."""
        for entry in changes.additions:
            if isinstance(entry.source, FileSource) and entry.source.path not in self._seen:
                with suppress(OSError):  # who reads it says what is wrong
                    self._seen[entry.source.path] = _stat(os.lstat(entry.source.path))

    def check(self, changes: ChangeSet) -> list[str]:
        """Look again at the files that ``changes`` were read from; those that are newly found changed."""
        found = []
        for entry in changes.additions:
            if isinstance(entry.source, FileSource):
                with suppress(OSError):  # it was read, and is of no interest any more
                    path = entry.source.path
                    if self._has_changed(path, _stat(os.lstat(path))):
                        found.append(path)
        return found

    def are_steady(self, changes: ChangeSet) -> bool:
        """Whether none of the files of ``changes`` has been found changed."""
        return not self._changed or not any(
            isinstance(entry.source, FileSource) and entry.source.path in self._changed
            for entry in changes.additions
        )

    def _has_changed(self, path: str, stat: Stat) -> bool:
        """Whether a file is found changed now. A change of its attributes (a link more) does not count,
        and files of our own do not change.
        """
        if self._own is not None and path.startswith(self._own):
            return False
        before = self._seen.setdefault(path, stat)
        if before[:4] == stat[:4] or path in self._changed:
            return False
        self._changed.add(path)
        return True

    def of(self, path: str) -> bytes:
        """The sha256 of the file at ``path`` (absolute, not followed)."""
        try:
            stat = _stat(os.lstat(path))
            self._has_changed(path, stat)
            known = self._known.get(path)
            if known is not None and known[0] == stat:
                digest = known[1]
            else:
                digest = self._hash(path)
                self.read += 1
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        if max(stat[3], stat[4]) < time.time_ns() - _GRAIN_NS:
            self._kept[path] = (stat, digest)
        return digest

    def save(self) -> None:
        """Remember what was used, for the next build; a memory that cannot be written is no error."""
        if self._path is None or self._fresh is None or not self._kept:
            return
        merged = {**self._known, **self._kept}
        with suppress(OSError):
            temporary = self._fresh() / self._path.name
            temporary.write_bytes(marshal.dumps((_FORMAT, merged)))
            temporary.replace(self._path)

    def _hash(self, path: str) -> bytes:
        digest = hashlib.sha256()
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            while count := os.readv(descriptor, [self._buffer]):
                digest.update(self._buffer[:count])
        finally:
            os.close(descriptor)
        return digest.digest()


def _stat(found: os.stat_result) -> Stat:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _load(path: Path | None) -> dict[str, tuple[Stat, bytes]]:
    """What was remembered; nothing, if the file is missing or damaged."""
    if path is None:
        return {}
    try:
        version, known = marshal.loads(path.read_bytes())  # noqa: S302 - a file of our own store
    except (OSError, ValueError, TypeError, EOFError):
        return {}
    return known if version == _FORMAT and isinstance(known, dict) else {}


def entry_fingerprint(entry: Entry, path: str, contents: ContentDigests) -> Fingerprint:
    """What ``entry`` is when it is called ``path``: everything but its times."""
    content: bytes | None = None
    if entry.kind is Kind.FILE:
        if isinstance(entry.source, FileSource):
            content = contents.of(entry.source.path)
        elif isinstance(entry.source, InlineSource):
            content = hashlib.sha256(entry.source.data).digest()
    return (
        path,
        entry.kind.value,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.link,
        entry.device,
        entry.xattrs,
        content,
    )


def source_fingerprint(sources: Iterable[CopySource], contents: ContentDigests) -> Fingerprint:
    """What the sources of a COPY are: their names and everything below them."""
    return tuple(_source_fingerprint(source, contents) for source in sources)


def _source_fingerprint(source: CopySource, contents: ContentDigests) -> Fingerprint:
    """One source. That a directory is only passed through counts: it leaves one that exists its owner."""
    entries = tuple(
        entry_fingerprint(
            entry if entry.kind is not Kind.HARDLINK else _linked(entry, source),
            source.relative(entry.path),
            contents,
        )
        for entry in source.entries
    )
    passing = tuple(sorted(map(source.relative, source.passing)))
    return (source.name, entries, passing) if passing else (source.name, entries)


def _linked(entry: Entry, source: CopySource) -> Entry:
    """A hardlink names its file by the path from the source, wherever the source is."""
    return Entry(
        entry.path,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        link=source.relative(entry.link),
    )


def change_fingerprint(changes: ChangeSet, contents: ContentDigests) -> Fingerprint:
    """What a change set makes."""
    return (
        tuple(entry_fingerprint(entry, entry.path, contents) for entry in changes.additions),
        changes.deletions,
        changes.opaque,
    )
