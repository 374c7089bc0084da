"""Archives among the sources of ADD: recognised as BuildKit does, by their content alone.

A file is one if a tar header stands at its beginning, or at the beginning of what it inflates to
(solver/llbsolver/file/unpack.go ``isArchivePath``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import Entry, FileSource, Kind
from asyncbuild.layers.header import is_header

_BLOCK = 512
_READ = 64 << 10


def _gunzip() -> Any:
    import zlib  # noqa: PLC0415 - each only for the file that needs it

    return zlib.decompressobj(31)


def _bunzip2() -> Any:
    import bz2  # noqa: PLC0415

    return bz2.BZ2Decompressor()


def _unxz() -> Any:
    import lzma  # noqa: PLC0415

    return lzma.LZMADecompressor()


def _unzstd() -> Any:
    import zstandard  # noqa: PLC0415

    return zstandard.ZstdDecompressor().decompressobj()


_MAGIC: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b\x08", _gunzip),
    (b"BZh", _bunzip2),
    (b"\xfd7zXZ\0", _unxz),
    (b"\x28\xb5\x2f\xfd", _unzstd),
)


def is_archive(entry: Entry) -> bool:
    """Whether a file is a tar archive, plain or compressed by gzip, bzip2, xz or zstd."""
    if entry.kind is not Kind.FILE or not isinstance(entry.source, FileSource):
        return False
    return is_archive_file(entry.source.path)


def is_archive_file(path: str) -> bool:
    """As `is_archive`, of the file at ``path`` on this machine."""
    try:
        with open(path, "rb") as file:
            return is_header(_head(file.read))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _head(read: Callable[[int], bytes]) -> bytes:
    """The first block of the content; less, if that is damaged or ends before."""
    data = read(_READ)
    make = next((make for magic, make in _MAGIC if data.startswith(magic)), None)
    if make is None:
        return data[:_BLOCK]
    inflater, found = make(), b""
    while data and len(found) < _BLOCK:
        try:
            found += inflater.decompress(data)
        except Exception:  # noqa: BLE001 - each library has errors of its own, and all say the same
            break
        data = read(_READ)
    return found[:_BLOCK]
