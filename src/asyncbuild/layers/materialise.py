"""A change set as a directory in overlay lower format: what a RUN sees of the COPY before it."""

from __future__ import annotations

import errno
import os
from typing import Final

from asyncbuild.errors import InputError, LayerError, StoreError
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, InlineSource, Kind
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.opening import open_source
from asyncbuild.layers.tree import LayerTree

_SMALL: Final = 64 << 10
_PIECE: Final = 1 << 30
_BLOCK: Final = 512  # of st_blocks, whatever the file system's own are
_NOT_BETWEEN_THESE: Final = (errno.EXDEV, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def materialise(changes: ChangeSet, destination: str) -> UnpackedFacts:
    """Write ``changes`` into the existing empty directory ``destination``.

    The facts are those of the layer that `asyncbuild.layers.pack` makes of the same change set.
    `InputError` when a file is missing or changed its size, `StoreError` when the disk does not take it.
    """
    try:
        with LayerTree(destination) as tree:
            _write(changes, tree)
            return tree.finish()
    except OSError as error:
        about = f": {error.filename!r}" if error.filename else ""
        raise StoreError.of(f"cannot write {destination}{about}", error) from error
    except LayerError as error:
        raise InputError(f"these files cannot stand together: {error.message}") from error


def _write(changes: ChangeSet, tree: LayerTree) -> None:
    for path in changes.deletions:
        tree.whiteout(path)
    for entry in changes.additions:
        if entry.kind is Kind.FILE:
            _write_file(entry, tree)
        elif entry.path:
            tree.add(entry)
    for path in changes.opaque:
        tree.opaque(path)


def _write_file(entry: Entry, tree: LayerTree) -> None:
    descriptor = tree.create(entry)
    try:
        source = entry.source
        if isinstance(source, FileSource):
            copy_file(source.path, descriptor, entry.size)
        elif isinstance(source, InlineSource):
            view = memoryview(source.data)
            while view:
                view = view[os.write(descriptor, view) :]
        elif entry.size:
            raise InputError(f"{entry.path}: {entry.size} bytes, and nowhere to read them from")
        tree.seal(descriptor, entry)
    finally:
        os.close(descriptor)


def copy_file(path: str, target: int, size: int) -> None:
    """Copy the ``size`` bytes of the file ``path`` to ``target``, a descriptor; shares blocks if possible.

    `InputError` if the file has another size by now.
    """
    source = open_source(path)
    try:
        count = _copy_small(source, target) if size < _SMALL else _copy_large(source, target)
    finally:
        os.close(source)
    if count != size:
        raise InputError(
            f"{path} changed while the build read it: {count} bytes, and {size} before",
            hint="files that are written to while the build runs cannot be copied",
        )


def _copy_small(source: int, target: int) -> int:
    count = 0
    while data := os.read(source, _SMALL):
        count += os.write(target, data)
    return count


def _copy_large(source: int, target: int) -> int:
    """Copy in the kernel, which shares the blocks where the file system can; holes stay holes."""
    status = os.fstat(source)
    if status.st_blocks * _BLOCK >= status.st_size:
        return _copy_rest(source, target)
    at = 0
    while (data := _next_data(source, at)) is not None:
        at = os.lseek(source, data, os.SEEK_HOLE)
        os.lseek(source, data, os.SEEK_SET)
        os.lseek(target, data, os.SEEK_SET)
        left = at - data
        while left and (copied := os.sendfile(target, source, None, left)):
            left -= copied
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    return size


def _next_data(source: int, at: int) -> int | None:
    """Where the next bytes behind ``at`` are that are no hole; None if there are none."""
    try:
        return os.lseek(source, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _copy_rest(source: int, target: int) -> int:
    count = 0
    try:
        while copied := os.copy_file_range(source, target, _PIECE):
            count += copied
    except OSError as error:
        if error.errno not in _NOT_BETWEEN_THESE:
            raise
        while copied := os.sendfile(target, source, None, _PIECE):
            count += copied
    return count
