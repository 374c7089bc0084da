"""Figures of ``layers``: what files, tars, hashes and compression cost on one core, without a build
around them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perf.bases import cache_directory, load_bases
from perf.jobs import write_files
from perf.micro.figure import Figure, duration, rate

from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.compression import Codec, Compression, inflate
from asyncbuild.layers.pack import pack
from asyncbuild.layers.snapshot import entry_of, snapshot
from asyncbuild.layers.unpack import UnpackJob, unpack

_CHUNK = 512 * 1024


class _Nowhere:
    """A sink that only takes."""

    def write(self, data: bytes | memoryview, /) -> object:
        return len(data)


class _Bytes:
    """A sink that keeps."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview, /) -> object:
        self.data += data
        return len(data)


@dataclass(frozen=True, slots=True)
class Samples:
    """What the figures are taken of: a tree of small files, a tree of large ones, scratch space."""

    scratch: Path
    small: ChangeSet
    large: ChangeSet


def make_samples(scratch: Path) -> Samples:
    """20,000 files of 2 KB; 20 files of 10 MB."""
    write_files(scratch / "small", 20_000, 2_000, seed=1)
    write_files(scratch / "large", 20, 10_000_000, seed=2)
    return Samples(scratch, _changes(scratch / "small"), _changes(scratch / "large"))


def _changes(root: Path) -> ChangeSet:
    found = []
    for directory, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            entry = entry_of(str(root), os.path.relpath(os.path.join(directory, name), root))
            assert entry is not None
            found.append(entry)
    return ChangeSet(tuple(sorted(found, key=lambda entry: entry.path.split("/"))))


def _size(changes: ChangeSet) -> int:
    return sum(entry.size for entry in changes.additions)


def figures(samples: Samples) -> Iterator[Figure]:
    """All of them."""
    yield from _packing(samples)
    yield from _streams(samples)
    yield from _unpacking(samples)
    yield from _snapshots(samples)


def _packing(samples: Samples) -> Iterator[Figure]:
    plain, small, large = Compression(Codec.NONE), samples.small, samples.large
    yield rate(
        "pack-small", len(small.additions), "files/s", lambda: pack(small, _Nowhere(), plain)
    )
    yield rate("pack-large", _size(large) / 1e6, "MB/s", lambda: pack(large, _Nowhere(), plain))
    yield rate("pack-gzip-large", _size(large) / 1e6, "MB/s", lambda: pack(large, _Nowhere()))
    zstd = Compression(Codec.ZSTD)
    yield rate("pack-zstd-large", _size(large) / 1e6, "MB/s", lambda: pack(large, _Nowhere(), zstd))


def _streams(samples: Samples) -> Iterator[Figure]:
    data = b"".join(
        path.read_bytes() for path in sorted((samples.scratch / "large").rglob("*.txt"))
    )
    yield rate("sha256", len(data) / 1e6, "MB/s", lambda: hashlib.sha256(data).digest())
    packed = _Bytes()
    pack(samples.large, packed)
    blob = bytes(packed.data)
    yield rate(
        "inflate-gzip", _size(samples.large) / 1e6, "MB/s", lambda: _exhaust(inflate(_chunks(blob)))
    )


def _exhaust(pieces: Iterable[bytes]) -> None:
    for _ in pieces:
        pass


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


def _unpacking(samples: Samples) -> Iterator[Figure]:
    packed = _Bytes()
    layer = pack(samples.small, packed)
    blob = bytes(packed.data)
    small = _Unpacking(samples.scratch, blob, layer.descriptor.digest, layer.diff_id)
    yield rate("unpack-small", len(samples.small.additions), "files/s", small)
    biggest = max(load_bases()["many"], key=lambda each: each.size)
    hexadecimal = biggest.digest.removeprefix("sha256:")
    blob = (cache_directory() / "layout/blobs/sha256" / hexadecimal).read_bytes()
    base = _Unpacking(samples.scratch, blob, Digest.parse(biggest.digest), None)
    yield rate("unpack-base-layer", biggest.unpacked / 1e6, "MB/s", base)


@dataclass(frozen=True, slots=True)
class _Unpacking:
    """Unpacks one blob into a fresh directory each time."""

    scratch: Path
    blob: bytes
    digest: Digest
    diff_id: DiffId | None

    def __call__(self) -> None:
        place = self.scratch / "unpacked"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        job = UnpackJob(str(place), self.digest, len(self.blob), self.diff_id)
        unpack(job, _chunks(self.blob))


def _snapshots(samples: Samples) -> Iterator[Figure]:
    upper = str(samples.scratch / "small")
    below = samples.scratch / "below"
    below.mkdir()
    yield duration("snapshot-20000-new", lambda: snapshot(upper, [str(below)]), passes=3)
    few = samples.scratch / "few"
    write_files(few, 200, 100, seed=3)
    yield duration("snapshot-200-over-20000", lambda: snapshot(str(few), [upper]))
