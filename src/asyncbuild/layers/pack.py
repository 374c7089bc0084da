"""A change set to a layer: tar, diff id, compression, digest and file in one pass.

The tar has the change set's order: its entries, each ``.wh.NAME`` where NAME would stand (and before
NAME itself, if that is both deleted and added), each ``.wh..wh..opq`` first in its directory. Markers
are empty files of mode 0 from the epoch, as containerd writes them. The root is never an entry.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Protocol, Self

from asyncbuild.errors import InputError, StoreError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.layers.ahead import Ordered
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, InlineSource, Kind, path_order
from asyncbuild.layers.compression import (
    GZIP,
    MIB,
    Block,
    Compression,
    Compressor,
    Deflated,
    make_compressor,
)
from asyncbuild.layers.header import BLOCK, encode_header, padding
from asyncbuild.layers.opening import open_source
from asyncbuild.records import dataclass

WHITEOUT_PREFIX: Final = ".wh."
OPAQUE_MARKER: Final = ".wh..wh..opq"
_SLACK: Final = 64 << 10
_END: Final = bytes(2 * BLOCK)
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NOTHING: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer that was packed: its blob, its diff id, the tar's size in bytes, the change set's length.

    ``entries`` is 0 for the empty layer.
    """

    descriptor: Descriptor
    diff_id: DiffId
    uncompressed_size: int
    entries: int


class Sink(Protocol):
    """Where a blob is written; an open binary file is one."""

    def write(self, data: bytes, /) -> object:
        """Write all of ``data``."""


def pack(changes: ChangeSet, sink: Sink, compression: Compression = GZIP) -> PackedLayer:
    """Write ``changes`` as a layer to ``sink``.

    `InputError` when a file is missing, is not a file any more, or changed its size since the
    change set was made; or has a name that a layer cannot hold.
    """
    with TarWriter(sink, make_compressor(compression)) as writer:
        for entry in members(changes):
            writer.add(entry)
        writer.finish()
    descriptor = Descriptor(compression.media_type, writer.digest, writer.compressed_size)
    entries = len(changes.additions) + len(changes.deletions) + len(changes.opaque)
    return PackedLayer(descriptor, writer.diff_id, writer.size, entries)


def members(changes: ChangeSet) -> Iterator[Entry]:
    """The tar's entries, markers among them, in the tar's order."""
    additions = (_allowed(entry) for entry in changes.additions if entry.path)
    if not changes.deletions and not changes.opaque:
        yield from additions
        return
    marked = [(path_order(path), 0, _marker(path)) for path in changes.deletions]
    marked += [(path_order(entry.path), 1, entry) for entry in additions]
    # ["d"] < ["d", "x"]: the third rank stands behind d itself and before everything in it
    marked += [
        (path_order(path) if path else [], 2, _opaque_marker(path)) for path in changes.opaque
    ]
    marked.sort(key=lambda member: member[:2])
    yield from (entry for _, _, entry in marked)


def _allowed(entry: Entry) -> Entry:
    if WHITEOUT_PREFIX in entry.path and f"/{WHITEOUT_PREFIX}" in f"/{entry.path}":
        raise InputError(
            f"/{entry.path}: an image cannot hold names that begin with {WHITEOUT_PREFIX}",
            hint="in a layer they say that something is deleted (OCI image specification)",
        )
    return entry


def _marker(path: str) -> Entry:
    head, slash, name = path.rpartition("/")
    return Entry(f"{head}{slash}{WHITEOUT_PREFIX}{name}", Kind.FILE, 0)


def _opaque_marker(directory: str) -> Entry:
    return Entry(f"{directory}/{OPAQUE_MARKER}" if directory else OPAQUE_MARKER, Kind.FILE, 0)


class TarWriter:
    """Entries to a compressed tar. A context manager; after `finish` its results are there.

    Headers, small files and pieces of large ones are gathered in blocks of about a MiB. Blocks are
    compressed in other threads while the next is gathered and hashed here.
    """

    def __init__(self, sink: Sink, compressor: Compressor) -> None:
        self._sink = sink
        self._compressor = compressor
        self._pool: Ordered[Block, Deflated] = Ordered(compressor.block, compressor.threads)
        # Under way are as many blocks as threads; the oldest of them looks at the one before it.
        self._ring = [memoryview(bytearray(MIB + _SLACK)) for _ in range(compressor.threads + 2)]
        self._turn = 0
        self._view = self._ring[0]
        self._used = 0
        self._before = _NOTHING
        self._diff_hash = hashlib.sha256()
        self._digest_hash = hashlib.sha256()
        self.size = 0
        """Bytes of the tar so far; those of the blob are in ``compressed_size``."""
        self.compressed_size = 0

    def __enter__(self) -> Self:
        self._emit(self._compressor.start())
        self._pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    @property
    def digest(self) -> Digest:
        """The blob's digest."""
        return Digest("sha256", self._digest_hash.hexdigest())

    @property
    def diff_id(self) -> DiffId:
        """The tar's diff id."""
        return DiffId("sha256", self._diff_hash.hexdigest())

    def add(self, entry: Entry) -> None:
        """Write one entry, and its content if it is a file."""
        self._write(encode_header(entry))
        if entry.kind is not Kind.FILE:
            return
        source = entry.source
        if isinstance(source, FileSource):
            self._copy(source.path, entry)
        elif isinstance(source, InlineSource):
            if len(source.data) != entry.size:
                raise InputError(
                    f"{entry.path}: {len(source.data)} bytes where {entry.size} were said"
                )
            self._write(source.data)
        elif entry.size:
            raise InputError(f"{entry.path}: {entry.size} bytes, and nowhere to read them from")
        self._write(bytes(padding(entry.size)))

    def finish(self) -> None:
        """Write the end of the archive and of the blob."""
        self._write(_END)
        self._flush()
        for deflated in self._pool.rest():
            self._emit(self._compressor.joined(deflated))
        self._emit(self._compressor.end())

    def _copy(self, path: str, entry: Entry) -> None:
        descriptor = open_source(path)
        try:
            self._copy_from(descriptor, path, entry.size)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _copy_from(self, descriptor: int, path: str, size: int) -> None:
        left = size
        while True:
            if self._used >= MIB:
                self._flush()
            # One byte more than is left shows growth without another call.
            end = min(self._used + left + 1, len(self._view))
            count = os.readv(descriptor, [self._view[self._used : end]])
            if count > left or (count == 0 and left):
                self._refuse(descriptor, path, size)
            self._used += count
            left -= count
            if not left and self._used < end:
                return

    def _refuse(self, descriptor: int, path: str, size: int) -> None:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is not a regular file any more")
        raise InputError(
            f"{path} changed while the build read it: {found.st_size} bytes, and {size} before",
            hint="files that are written to while the build runs cannot be copied",
        )

    def _write(self, data: bytes) -> None:
        start = 0
        while True:
            end = self._used + len(data) - start
            if end <= len(self._view):
                self._view[self._used : end] = data[start:]
                self._used = end
                break
            room = len(self._view) - self._used
            self._view[self._used :] = data[start : start + room]
            self._used += room
            start += room
            self._flush()
        if self._used >= MIB:
            self._flush()

    def _flush(self) -> None:
        if not self._used:
            return
        block = self._view[: self._used]
        for deflated in self._pool.put(Block(block, self._before)):
            self._emit(self._compressor.joined(deflated))
        self._diff_hash.update(block)
        self.size += self._used
        self._before = block
        self._turn = (self._turn + 1) % len(self._ring)
        self._view = self._ring[self._turn]
        self._used = 0

    def _emit(self, data: bytes) -> None:
        if data:
            self._digest_hash.update(data)
            self._sink.write(data)
            self.compressed_size += len(data)


class BlobFile:
    """A new file as a `Sink` that tells ``progress`` how many bytes are in it so far.

    A context manager. `StoreError` if the file exists or the disk does not take it.
    """

    def __init__(self, path: str, progress: Callable[[int], None] | None = None) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, _NEW, 0o644)
        except OSError as error:
            raise StoreError.of(f"cannot write {path}", error) from error
        self._progress = progress
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            try:
                count = os.write(self._descriptor, view)
            except OSError as error:
                raise StoreError.of(f"cannot write {self._path}", error) from error
            view = view[count:]
            self._size += count
        if self._progress is not None:
            self._progress(self._size)


def pack_to_file(
    changes: ChangeSet,
    path: str,
    compression: Compression = GZIP,
    progress: Callable[[int], None] | None = None,
) -> PackedLayer:
    """`pack` into the new file ``path``."""
    with BlobFile(path, progress) as sink:
        return pack(changes, sink, compression)
