"""A blob to a directory: digest, inflation, diff id, entries and files in one pass.

Hashing and inflation run in a thread of their own, ahead of the one that makes files. No result is
given before the blob's digest and size and the tar's diff id are found right; where bytes are both
damaged in transit and no good tar, the damage is what is reported.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Final

from asyncbuild.errors import IntegrityError, LayerError, StoreError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.layers.ahead import Ahead
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.compression import inflate
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.limits import LIMITS, LayerLimits
from asyncbuild.layers.members import OPAQUE_MARKER, WHITEOUT_PREFIX
from asyncbuild.layers.pack import BlobFile
from asyncbuild.layers.plainfiles import write_plain_files
from asyncbuild.layers.reader import TarReader
from asyncbuild.layers.tree import LayerTree
from asyncbuild.records import dataclass

_META_PREFIX: Final = ".wh..wh."
_AHEAD: Final = 3
# What these say of a name or an order of entries is the layer's doing, not the disk's.
BAD_LAYER: Final = (
    errno.EEXIST,
    errno.EFBIG,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMLINK,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.E2BIG,
    errno.ERANGE,
)


@dataclass(frozen=True, slots=True)
class UnpackJob:
    """A blob to unpack: what it must be, and where it goes.

    ``destination`` is an existing empty directory. ``size`` counts the blob's bytes. ``diff_id`` is
    None where no one knows it. ``tee`` is a new file that gets the blob itself. ``limits`` hold for what
    comes out.
    """

    destination: str
    digest: Digest
    size: int
    diff_id: DiffId | None = None
    tee: str | None = None
    limits: LayerLimits = LIMITS


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A layer that was unpacked and verified."""

    digest: Digest
    diff_id: DiffId
    facts: UnpackedFacts


def unpack(job: UnpackJob, chunks: Iterable[bytes]) -> Unpacked:
    """Unpack the blob that ``chunks`` are, however it is compressed.

    `IntegrityError` if it is not the blob that ``job`` names; `LayerError` if it is, but is no tar or
    a hostile one; `StoreError` if the disk does not take it. After an error the destination holds
    anything, and is to be removed.
    """
    blob = _Blob(job)
    with Ahead(blob.content(chunks), _AHEAD) as blocks:
        try:
            facts = _unpack_tar(job, blocks)
            for _ in blocks:
                pass  # what follows the archive is hashed all the same
        except LayerError as error:
            _finish_reading(blocks)
            blob.check()
            words = f"layer {job.digest.short}: {error.message}"
            raise LayerError(words, hint=error.hint) from error
    blob.check()
    diff_id = DiffId("sha256", blob.diff_hash.hexdigest())
    if job.diff_id is not None and diff_id != job.diff_id:
        raise IntegrityError(
            f"layer {job.digest}: its content is {diff_id}, and the image's configuration says"
            f" {job.diff_id}"
        )
    return Unpacked(job.digest, diff_id, facts)


class _Blob:
    """The blob on its way: counted, hashed, written to ``tee``, inflated, and hashed again."""

    def __init__(self, job: UnpackJob) -> None:
        self._job = job
        self._hash = hashlib.new(job.digest.algorithm)
        self._size = 0
        self.diff_hash = hashlib.sha256()

    def content(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The tar in pieces. All of ``chunks`` is read even if the compressed stream is damaged."""
        if self._job.tee is None:
            source = self._received(chunks)
            yield from self._inflated(source)
            return
        with BlobFile(self._job.tee) as tee:
            yield from self._inflated(self._copied(self._received(chunks), tee))

    def check(self) -> None:
        """`IntegrityError` unless what was read is the blob that was asked for."""
        wanted = self._job
        if self._size != wanted.size:
            raise IntegrityError(
                f"layer {wanted.digest}: {self._size} bytes came, {wanted.size} were expected"
            )
        if self._hash.hexdigest() != wanted.digest.hex:
            found = f"{wanted.digest.algorithm}:{self._hash.hexdigest()}"
            raise IntegrityError(f"layer {wanted.digest} is damaged: its bytes are {found}")

    def _received(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._size += len(chunk)
            if self._size > self._job.size:
                raise IntegrityError(
                    f"layer {self._job.digest}: more than the {self._job.size} bytes expected came"
                )
            self._hash.update(chunk)
            yield chunk

    def _copied(self, chunks: Iterator[bytes], tee: BlobFile) -> Iterator[bytes]:
        for chunk in chunks:
            tee.write(chunk)
            yield chunk

    def _inflated(self, source: Iterator[bytes]) -> Iterator[bytes]:
        size = 0
        try:
            for block in inflate(source):
                self.diff_hash.update(block)
                size += len(block)
                self._job.limits.check_inflated(size, self._size)
                yield block
        except LayerError:
            _finish_reading(source)
            raise
        _finish_reading(source)


def _finish_reading(items: Iterator[bytes]) -> None:
    """Read what is left, so that a digest covers everything; another damage does not matter."""
    try:
        for _ in items:
            pass
    except LayerError:
        pass


def _unpack_tar(job: UnpackJob, blocks: Iterator[bytes]) -> UnpackedFacts:
    try:
        with LayerTree(job.destination) as tree:
            write_entries(TarReader(blocks), tree, limits=job.limits)
            return tree.finish()
    except OSError as error:
        about = f": {error.filename!r}" if error.filename else ""
        if error.errno in BAD_LAYER:
            raise LayerError(f"an entry cannot be made{about}: {error.strerror}") from error
        raise StoreError.of(f"cannot unpack layer {job.digest.short}{about}", error) from error


def write_entries(
    reader: TarReader, tree: LayerTree, *, markers: bool = True, limits: LayerLimits = LIMITS
) -> None:
    """Write every entry.

    Without ``markers`` a name that is a whiteout in a layer is a name like any other, and the entry of a
    hard link says of the file what any entry does, as Docker's archive package has it.
    """
    entries = size = 0
    while True:
        entries, size = write_plain_files(reader, tree, limits, entries, size)
        entry = next(reader, None)
        if entry is None:
            return
        entries, size = entries + 1, size + entry.size
        limits.check_files(entries, size)
        if markers and ".wh." in entry.path and _marker(entry, tree):
            continue
        if entry.kind is not Kind.FILE:
            tree.add(entry)
            if entry.kind is Kind.HARDLINK and not markers:
                tree.dress(entry)
            continue
        descriptor = tree.create(entry)
        try:
            data = reader.whole()
            if data is None or reader.segments is not None:
                _write_pieces(reader, descriptor, entry, data)
            elif data:
                count = os.write(descriptor, data)
                while count < len(data):  # a full disk takes a part, and then says so
                    count += os.write(descriptor, data[count:])
            tree.seal(descriptor, entry)
        finally:
            os.close(descriptor)


def _write_pieces(
    reader: TarReader, descriptor: int, entry: Entry, whole: memoryview | None
) -> None:
    """Write a file that is large or sparse; the holes of a sparse one stay holes."""
    segments = iter(reader.segments or ((0, entry.size),))
    at, left = next(segments, (0, 0))
    for piece in [whole] if whole is not None else reader.pieces():
        view = piece
        while view:
            if not left:
                at, left = next(segments)
            count = os.pwrite(descriptor, view[:left], at)
            at, left, view = at + count, left - count, view[count:]
    os.ftruncate(descriptor, entry.size)


def _marker(entry: Entry, tree: LayerTree) -> bool:
    """Do what a whiteout or an opaque marker says; False if ``entry`` is neither.

    Other names that begin with ``.wh..wh.`` were aufs's own, and are nothing (image specification,
    "Whiteouts"; Docker skips them too).
    """
    head, _, name = entry.path.rpartition("/")
    if any(part.startswith(_META_PREFIX) for part in head.split("/")):
        return True
    if f"/{head}".find(f"/{WHITEOUT_PREFIX}") >= 0:
        raise LayerError(f"{entry.path!r} lies below a whiteout")
    if not name.startswith(WHITEOUT_PREFIX):
        return False
    if name == OPAQUE_MARKER:
        tree.opaque(head)
    elif not name.startswith(_META_PREFIX):
        hidden = name[len(WHITEOUT_PREFIX) :]
        if hidden in ("", ".", ".."):
            raise LayerError(f"{entry.path!r} is a whiteout of no name")
        tree.whiteout(f"{head}/{hidden}" if head else hidden)
    return True
