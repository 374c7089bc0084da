"""Compression of layers: written deterministically, recognised by its first bytes when read.

Written gzip is one member of blocks of a MiB, each deflated on its own with the 32 KiB before it
as dictionary and ended by a sync flush, as pigz does. So the bytes depend on nothing but the content,
the level and the version of the library, least of all on the number of threads.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from typing import Any, Final, Protocol, cast

from isal import igzip_lib, isal_zlib

from asyncbuild.errors import LayerError
from asyncbuild.layers.header import BLOCK, is_header
from asyncbuild.records import dataclass

MIB: Final = 1 << 20
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_WINDOW: Final = 32 << 10
_GZIP_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, unknown system
_LAST_BLOCK: Final = b"\x03\0"  # an empty final block
_ISAL_LEVELS: Final = 3
_XZ_MEMORY: Final = 256 << 20  # xz -9 needs 65 MiB to be read; a stream may ask for 4 GiB
_MAGIC: Final = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "xz": b"\xfd7zXZ\0",
    "bzip2": b"BZh",
}
_ISAL_ERROR: Final = cast("type[Exception]", igzip_lib.IsalError)  # the stub has an instance
_LONGEST_MAGIC: Final = max(map(len, _MAGIC.values()))


class Codec(Enum):
    """How the bytes of a layer are compressed; the values are the names on a command line."""

    NONE = "uncompressed"
    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Compression:
    """A codec and its level: gzip 0-3 is isal's scale, 4-9 zlib's (slow); zstd 1-22."""

    codec: Codec = Codec.GZIP
    level: int | None = None

    @property
    def media_type(self) -> str:
        """The OCI media type of a layer compressed so."""
        return OCI_LAYER + ("" if self.codec is Codec.NONE else f"+{self.codec.value}")


GZIP: Final = Compression(Codec.GZIP)
ZSTD: Final = Compression(Codec.ZSTD)
UNCOMPRESSED: Final = Compression(Codec.NONE)


# --- writing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """Some content, and the content right before it."""

    data: memoryview
    before: memoryview


@dataclass(frozen=True, slots=True)
class Deflated:
    """A compressed block, its CRC-32 and the size of its content in bytes."""

    data: bytes | memoryview
    crc: int = 0
    size: int = 0


class Compressor(Protocol):
    """Makes one stream of blocks: `start`, then `block` for each, `joined` for each, `end`."""

    @property
    def threads(self) -> int:
        """In how many threads `block` may be called; in one it is called in order."""

    def start(self) -> bytes:
        """What the stream begins with."""

    def block(self, block: Block, /) -> Deflated:
        """Compress one block."""

    def joined(self, deflated: Deflated, /) -> bytes | memoryview:
        """The bytes of the stream for a block; called in order, in one thread."""

    def end(self) -> bytes:
        """What the stream ends with."""


def make_compressor(compression: Compression) -> Compressor:
    """The compressor for one stream."""
    if compression.codec is Codec.GZIP:
        return _Gzip(2 if compression.level is None else compression.level)
    if compression.codec is Codec.ZSTD:
        return _Zstd(3 if compression.level is None else compression.level)
    return _Plain()


class _Gzip:
    threads = 2

    def __init__(self, level: int) -> None:
        self._level = level
        self._deflate: Callable[..., Any] = (
            isal_zlib.compressobj if level <= _ISAL_LEVELS else zlib.compressobj
        )
        self._crc = 0
        self._size = 0

    def start(self) -> bytes:
        return _GZIP_HEADER

    def block(self, block: Block) -> Deflated:
        options = (self._level, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY)
        before = block.before[-_WINDOW:]
        deflate = self._deflate(*options, before) if before else self._deflate(*options)
        data = deflate.compress(block.data) + deflate.flush(zlib.Z_SYNC_FLUSH)
        return Deflated(data, isal_zlib.crc32(block.data), len(block.data))

    def joined(self, deflated: Deflated) -> bytes | memoryview:
        self._crc = isal_zlib.crc32_combine(self._crc, deflated.crc, deflated.size)
        self._size += deflated.size
        return deflated.data

    def end(self) -> bytes:
        return _LAST_BLOCK + struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF)


class _Zstd:
    threads = 1

    def __init__(self, level: int) -> None:
        import zstandard  # noqa: PLC0415 - 10 ms that most builds need not spend

        # 0 threads: the library's own cut the content elsewhere, and hold 40 MB of it.
        self._stream = zstandard.ZstdCompressor(level, write_checksum=True).compressobj()

    def start(self) -> bytes:
        return b""

    def block(self, block: Block) -> Deflated:
        return Deflated(self._stream.compress(block.data))

    def joined(self, deflated: Deflated) -> bytes | memoryview:
        return deflated.data

    def end(self) -> bytes:
        return self._stream.flush()


class _Plain:
    threads = 1

    def start(self) -> bytes:
        return b""

    def block(self, block: Block) -> Deflated:
        return Deflated(block.data)

    def joined(self, deflated: Deflated) -> bytes | memoryview:
        return deflated.data

    def end(self) -> bytes:
        return b""


# --- reading ----------------------------------------------------------------------------------------


def inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a stream in pieces of at most a MiB, however it is compressed, or not at all.

    gzip, zstd, xz and bzip2 are told by their first bytes: media types have been wrong before. Several
    gzip members, zstd frames (skippable ones too), xz streams or bzip2 streams in a row are one
    content. A damaged or truncated stream is a `LayerError`.
    """
    source = iter(chunks)
    head = b""
    while len(head) < _LONGEST_MAGIC:
        chunk = next(source, None)
        if chunk is None:
            break
        head += chunk
    codec = next((name for name, magic in _MAGIC.items() if head.startswith(magic)), None)
    if codec is not None:
        while len(head) < BLOCK and (chunk := next(source, b"")):
            head += chunk
    whole = _chain(head, source)
    if codec is None or is_header(head[:BLOCK]):  # a plain tar whose first name begins with "BZh"
        return whole
    if codec == "zstd":
        return _unzstd(whole)
    return _members(codec, whole)


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _members(codec: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Streams of one codec in a row, with zero bytes behind them perhaps."""
    make, damaged = _decoder(codec)
    decoder: Any = None
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        while data:
            if decoder is None:
                data = data.lstrip(b"\0")
                if len(data) < _LONGEST_MAGIC and _MAGIC[codec].startswith(
                    data[: len(_MAGIC[codec])]
                ):
                    break
                if not data.startswith(_MAGIC[codec]):
                    raise LayerError(f"there is something else behind the {codec} stream")
                decoder = make()
            try:
                yield from _drain(decoder, data)
            except damaged as error:
                raise LayerError(f"the {codec} stream is damaged: {error}") from error
            if not decoder.eof:
                data = b""
                break
            data, decoder = decoder.unused_data, None
        rest = data
    if decoder is not None or rest:
        raise LayerError(f"the {codec} stream is truncated")


def _drain(decoder: Any, data: bytes) -> Iterator[bytes]:
    while True:
        piece = decoder.decompress(data, MIB)
        if piece:
            yield piece
        if decoder.eof or decoder.needs_input:
            return
        data = b""


def _decoder(codec: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    if codec == "gzip":
        return _igzip, (_ISAL_ERROR, EOFError)
    if codec == "xz":
        import lzma  # noqa: PLC0415 - rare

        bounded = partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY)
        return bounded, (lzma.LZMAError, EOFError)
    import bz2  # noqa: PLC0415 - rare

    return bz2.BZ2Decompressor, (OSError, EOFError)


def _igzip() -> Any:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


class _Readable:
    """An iterator of chunks as the file that zstandard reads from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, _size: int = -1) -> bytes:
        return next(self._chunks, b"")


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard  # noqa: PLC0415 - 10 ms that most builds need not spend

    source: Any = _Readable(chunks)
    reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
    buffer = bytearray(MIB)
    view = memoryview(buffer)
    nothing = True
    try:
        while count := reader.readinto(buffer):
            yield bytes(view[:count])
            nothing = False
    except zstandard.ZstdError as error:
        raise LayerError(f"the zstd stream is damaged: {error}") from error
    if nothing:  # the library says nothing of a stream that ends early; a tar has an end of its own
        raise LayerError("the zstd stream is truncated, or empty")
