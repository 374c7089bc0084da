"""Archives among the sources of ADD: recognised as BuildKit does, by their content alone."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable

import zstandard

from asyncbuild.context.sources import CopySource
from asyncbuild.errors import DockerfileError, InputError
from asyncbuild.layers.changeset import Entry, FileSource, Kind

_BLOCK = 512
_HEAD = 64 << 10
_CHECKSUM = slice(148, 156)
_MAGIC: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", lambda head: zlib.decompressobj(31).decompress(head, _BLOCK)),
    (b"BZh", lambda head: bz2.BZ2Decompressor().decompress(head, _BLOCK)),
    (b"\xfd7zXZ\0", lambda head: lzma.LZMADecompressor().decompress(head, _BLOCK)),
    (
        b"\x28\xb5\x2f\xfd",
        lambda head: zstandard.ZstdDecompressor().decompressobj().decompress(head),
    ),
)


def refuse_archives(sources: Iterable[CopySource]) -> None:
    """Raise DockerfileError for a source that ADD would have to unpack: that is not done yet."""
    for source in sources:
        if is_archive(source.entries[0]):
            raise DockerfileError(
                f"ADD of the archive {source.name} (it would be unpacked) is not supported yet",
                hint="COPY copies it as it is; RUN tar can unpack it",
            )


def is_archive(entry: Entry) -> bool:
    """Whether a file is a tar archive, plain or compressed by gzip, bzip2, xz or zstd."""
    if entry.kind is not Kind.FILE or not isinstance(entry.source, FileSource):
        return False
    try:
        with open(entry.source.path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputError(f"cannot read {entry.path}: {error.strerror}") from error
    for magic, inflate in _MAGIC:
        if head.startswith(magic):
            try:
                head = inflate(head)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError):
                return False
            break
    return _is_header(head[:_BLOCK])


def _is_header(block: bytes) -> bool:
    """Whether a block of 512 bytes is a tar header: its checksum is right (POSIX pax, "ustar")."""
    if len(block) < _BLOCK:
        return False
    try:
        stated = int(block[_CHECKSUM].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return stated == sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")
