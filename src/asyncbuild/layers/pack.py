"""A change set to a layer: tar, diff id, compression, digest and file in one pass.

The tar has the change set's order: its entries, each ``.wh.NAME`` where NAME would stand (and before
NAME itself, if that is both deleted and added), each ``.wh..wh..opq`` first in its directory. Markers
are empty files of mode 0 from the epoch, as containerd writes them. The root is never an entry.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from asyncbuild.errors import InputError, StoreError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.layers.ahead import Ordered
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.compression import (
    GZIP,
    MIB,
    Block,
    Codec,
    Compression,
    Compressor,
    Deflated,
    make_compressor,
)
from asyncbuild.layers.header import BLOCK, padding
from asyncbuild.layers.members import Survey, members_of
from asyncbuild.layers.opening import open_source, refuse_changed
from asyncbuild.layers.portions import Portion
from asyncbuild.layers.sidebyside import ended, side_by_side
from asyncbuild.records import dataclass

_END: Final = bytes(2 * BLOCK)
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NOTHING: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer that was packed: its blob, its diff id, the tar's size in bytes, how many entries it has.

    ``entries`` is 0 for the empty layer.
    """

    descriptor: Descriptor
    diff_id: DiffId
    uncompressed_size: int
    entries: int


class Sink(Protocol):
    """Where a blob is written; an open binary file is one."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Write all of ``data``, which is no one's to keep."""


def pack(
    changes: ChangeSet | Survey, sink: Sink, compression: Compression = GZIP, processes: int = 1
) -> PackedLayer:
    """Write ``changes`` as a layer to ``sink``; many files are read by so many ``processes``.

    Of these, only a process without threads that hold locks may start more than none. `InputError` when a
    file is missing, is not a file any more, or changed its size since the change set was made; or has a
    name that a layer cannot hold.
    """
    members = tuple(members_of(changes))
    plain = compression.codec is Codec.NONE
    with (
        side_by_side(members, processes) as portions,
        TarWriter(sink, make_compressor(compression), plain=plain) as writer,
    ):
        for portion in portions:
            writer.add(portion)
        writer.finish()
    descriptor = Descriptor(compression.media_type, writer.digest, writer.compressed_size)
    return PackedLayer(descriptor, writer.diff_id, writer.size, writer.members)


class TarWriter:
    """Entries to a compressed tar. A context manager; after `finish` its results are there.

    Everything is gathered in blocks of a MiB, wherever files begin in them: what is compressed is cut alike
    whoever has made it. Blocks are compressed in other threads while the next is gathered and hashed here.
    """

    def __init__(self, sink: Sink, compressor: Compressor, *, plain: bool = False) -> None:
        """``plain``: the blob is the tar itself, which need not be hashed twice."""
        self._sink = sink
        self._compressor = compressor
        self._pool: Ordered[Block, Deflated] = Ordered(compressor.block, compressor.threads)
        # Under way are as many blocks as threads; the oldest of them looks at the one before it.
        self._ring = [memoryview(bytearray(MIB)) for _ in range(compressor.threads + 2)]
        self._turn = 0
        self._view = self._ring[0]
        self._used = 0
        self._before = _NOTHING
        self._diff_hash = hashlib.sha256()
        self._digest_hash = None if plain else hashlib.sha256()
        self.members = 0
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
        return Digest("sha256", (self._digest_hash or self._diff_hash).hexdigest())

    @property
    def diff_id(self) -> DiffId:
        """The tar's diff id."""
        return DiffId("sha256", self._diff_hash.hexdigest())

    def add(self, portion: Portion) -> None:
        """Write some of the tar."""
        if isinstance(portion.data, bytes):
            self._write(portion.data)
        else:
            self._draw(portion.data.descriptor, portion.data.size)
        if portion.file is not None:
            self._copy(portion.file.path, portion.file.size)
            self._write(bytes(padding(portion.file.size)))
        self.members += portion.members

    def finish(self) -> None:
        """Write the end of the archive and of the blob."""
        self._write(_END)
        self._flush()
        for deflated in self._pool.rest():
            self._emit(self._compressor.joined(deflated))
        self._emit(self._compressor.end())

    def _copy(self, path: str, size: int) -> None:
        descriptor = open_source(path)
        try:
            self._copy_from(descriptor, path, size)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _copy_from(self, descriptor: int, path: str, size: int) -> None:
        left = size
        while True:
            # One byte more than is left shows growth without another call.
            end = min(self._used + left + 1, MIB)
            count = os.readv(descriptor, [self._view[self._used : end]])
            if count > left or (count == 0 and left):
                refuse_changed(descriptor, path, size)
            whole = self._used + count < end
            left -= count
            self._advance(count)
            if not left and whole:
                return

    def _draw(self, descriptor: int, size: int) -> None:
        left = size
        while left:
            end = min(self._used + left, MIB)
            count = os.readv(descriptor, [self._view[self._used : end]])
            if not count:
                raise ended()
            left -= count
            self._advance(count)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = min(len(view), MIB - self._used)
            self._view[self._used : self._used + count] = view[:count]
            view = view[count:]
            self._advance(count)

    def _advance(self, count: int) -> None:
        """So many bytes more are in the block."""
        self._used += count
        if self._used == MIB:
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

    def _emit(self, data: bytes | memoryview) -> None:
        if data:
            if self._digest_hash is not None:
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

    def write(self, data: bytes | memoryview) -> None:
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
    changes: ChangeSet | Survey,
    path: str,
    compression: Compression = GZIP,
    progress: Callable[[int], None] | None = None,
    processes: int = 1,
) -> PackedLayer:
    """`pack` into the new file ``path``."""
    with BlobFile(path, progress) as sink:
        return pack(changes, sink, compression, processes)
