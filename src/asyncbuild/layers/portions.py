"""Members of a layer to the bytes of its tar, in portions: headers, small files, and where large ones are.

A file of a run costs five system calls: open, fstat, listxattr, read, close. The read asks for one byte
more than there should be, which shows growth. What is not plain (extended attributes, names or numbers
that need a pax header, a stand-in for something else) takes the long way, with the same bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import Entry, FileSource, InlineSource, Kind
from asyncbuild.layers.header import BLOCK, NANOSECONDS, encode_header, file_header
from asyncbuild.layers.marks import is_whiteout
from asyncbuild.layers.members import FileRun, Member
from asyncbuild.layers.opening import open_source, refuse_changed
from asyncbuild.layers.records import records
from asyncbuild.layers.snapshot import entry_of
from asyncbuild.records import dataclass, replace

SMALL: Final = 64 << 10
"""Files beyond this size are read where they are written: straight into a block."""
_PORTION: Final = 256 << 10
_PLAIN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PADDING: Final = tuple(bytes(-size % BLOCK) for size in range(BLOCK))


@dataclass(frozen=True, slots=True)
class LargeFile:
    """The content of a file, and what fills its last block."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Piped:
    """So many bytes come out of a pipe next."""

    descriptor: int
    size: int


@dataclass(frozen=True, slots=True)
class Portion:
    """Some bytes of a tar with ``members`` headers among them, and the large file that follows."""

    data: bytes | Piped
    members: int
    file: LargeFile | None = None


def portions(members: Iterable[Member]) -> Iterator[Portion]:
    """The bytes of ``members`` in a tar, without its end.

    `InputError` if a file cannot be read, or is not what it was said to be.
    """
    gathered = _Gathered()
    for member in members:
        if isinstance(member, FileRun):
            yield from gathered.add_run(member)
        else:
            yield from gathered.add(member)
    yield from gathered.rest()


class _Gathered:
    """Bytes that wait until they are worth a portion."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._members = 0

    def rest(self, file: LargeFile | None = None) -> Iterator[Portion]:
        """All that waits, if anything does."""
        if self._parts:
            yield Portion(b"".join(self._parts), self._members, file)
            self._parts.clear()
            self._size = self._members = 0

    def add(self, entry: Entry) -> Iterator[Portion]:
        """One entry and, if it is a file, its content."""
        header = encode_header(entry)
        self._parts.append(header)
        self._size += len(header)
        self._members += 1
        if entry.kind is Kind.FILE:
            if isinstance(entry.source, FileSource) and entry.size > SMALL:
                yield from self.rest(LargeFile(entry.source.path, entry.size))
                return
            self._parts += (_content(entry), _PADDING[entry.size % BLOCK])
            self._size += entry.size
        if self._size >= _PORTION:
            yield from self.rest()

    def add_run(self, run: FileRun) -> Iterator[Portion]:
        """The files of a run."""
        try:
            directory = os.open(f"{run.root}/{run.prefix}", _DIRECTORY)
        except OSError as error:
            raise _unreadable(error) from error
        try:
            yield from self._add_files(run, directory)
        finally:
            os.close(directory)

    def _add_files(self, run: FileRun, directory: int) -> Iterator[Portion]:
        """In one loop without calls of our own: each would take a tenth of what a file takes."""
        prefix = run.prefix.encode("utf-8", "surrogateescape")
        names = "\0".join(run.names).encode("utf-8", "surrogateescape").split(b"\0")
        newest = None if run.newest is None else run.newest // NANOSECONDS
        plain = not records()
        attributes = _lists_attributes(directory)
        parts, is_file = self._parts, stat.S_ISREG
        for name in names:
            header = None
            try:
                descriptor = os.open(name, _PLAIN, dir_fd=directory)
                try:
                    mode, _, _, _, uid, gid, size, _, seconds, _ = os.fstat(descriptor)
                    if plain and size <= SMALL and not (attributes and os.listxattr(descriptor)):
                        data = os.read(descriptor, size + 1)
                        if newest is not None and seconds > newest:
                            seconds = newest
                        if len(data) == size and is_file(mode):
                            header = file_header(prefix + name, mode, uid, gid, size, int(seconds))
                finally:
                    os.close(descriptor)
            except OSError:
                header = None  # the long way says what is wrong
            if header is None:
                path = (prefix + name).decode("utf-8", "surrogateescape")
                yield from self._add_by_path(run, path)
                continue
            parts += (header, data, _PADDING[size % BLOCK])
            self._size += size + BLOCK
            self._members += 1
            if self._size >= _PORTION:
                yield from self.rest()

    def _add_by_path(self, run: FileRun, path: str) -> Iterator[Portion]:
        where = f"{run.root}/{path}"
        try:
            found = os.lstat(where)
            entry = None if is_whiteout(found, where) else entry_of(run.root, path, found)
        except OSError as error:
            raise _unreadable(error) from error
        if entry is not None and run.newest is not None:
            entry = replace(entry, mtime_ns=min(entry.mtime_ns, run.newest))
        if entry is not None:
            yield from self.add(entry)


def _lists_attributes(directory: int) -> bool:
    """Whether the file system of an open directory has extended attributes at all."""
    try:
        os.listxattr(directory)
    except OSError:
        return False
    return True


def _content(entry: Entry) -> bytes:
    source = entry.source
    if isinstance(source, FileSource):
        return _read(source.path, entry.size)
    if isinstance(source, InlineSource):
        if len(source.data) != entry.size:
            raise InputError(f"{entry.path}: {len(source.data)} bytes where {entry.size} were said")
        return source.data
    if entry.size:
        raise InputError(f"{entry.path}: {entry.size} bytes, and nowhere to read them from")
    return b""


def _read(path: str, size: int) -> bytes:
    descriptor = open_source(path)
    try:
        data = os.read(descriptor, size + 1)
        while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
            data += more
        if len(data) != size:
            refuse_changed(descriptor, path, size)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return data


def _unreadable(error: OSError) -> InputError:
    return InputError(f"cannot read {error.filename}: {error.strerror}")
