"""An archive that a user hands in, as a directory: what ADD unpacks, or a build context.

As safe as unpacking a layer, by the same code; but nothing in it removes anything, and nobody has said
what it must be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from asyncbuild.errors import InputError, LayerError, StoreError
from asyncbuild.layers.ahead import Ahead
from asyncbuild.layers.compression import inflate
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.limits import LIMITS, LayerLimits
from asyncbuild.layers.reader import TarReader
from asyncbuild.layers.tree import LayerTree
from asyncbuild.layers.unpack import BAD_LAYER, write_entries
from asyncbuild.records import dataclass

_READ: Final = 256 << 10
_AHEAD: Final = 3
_SOURCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class ExtractJob:
    """The archive at the path ``archive``, to be unpacked into the empty directory ``destination``."""

    archive: str
    destination: str
    limits: LayerLimits = LIMITS


def extract(job: ExtractJob) -> UnpackedFacts:
    """Unpack a tar archive, plain or compressed by gzip, bzip2, xz or zstd.

    `LayerError` if it is damaged or hostile, `InputError` if it cannot be read, `StoreError` if the disk
    does not take it. After an error the destination holds anything.
    """
    with Ahead(_limited(job), _AHEAD) as blocks:
        try:
            with LayerTree(job.destination) as tree:
                write_entries(TarReader(blocks), tree, markers=False, limits=job.limits)
                facts = tree.finish()
        except OSError as error:
            about = f" {error.filename!r}" if error.filename else ""
            if error.errno in BAD_LAYER:
                raise LayerError(f"an entry cannot be made{about}: {error.strerror}") from error
            raise StoreError.of(f"cannot unpack{about}", error) from error
        for _ in blocks:
            pass  # a checksum at the end of the stream counts
    return facts


def _limited(job: ExtractJob) -> Iterator[bytes]:
    """The content of the archive; `LayerError` where it becomes too large."""
    read = size = 0

    def counted() -> Iterator[bytes]:
        nonlocal read
        for chunk in _chunks(job.archive):
            read += len(chunk)
            yield chunk

    for block in inflate(counted()):
        size += len(block)
        job.limits.check_inflated(size, read)
        yield block


def _chunks(path: str) -> Iterator[bytes]:
    try:
        descriptor = os.open(path, _SOURCE)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        while chunk := os.read(descriptor, _READ):
            yield chunk
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
