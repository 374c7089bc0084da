"""Content-Encoding: what a server compresses although it was asked not to (RFC 9110, 8.4). Pure.

Proxies do it to manifests and to blobs. Object stores say it of blobs that are compressed themselves, and
mean the blob's own compression: then the bytes as they come are the blob.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from asyncbuild.image.manifest import Descriptor

_GZIP = b"\x1f\x8b"
_GZIP_STREAM = 31  # zlib's window, and a gzip header


class Damaged(ValueError):
    """What came is not gzip, or more than it may be."""


def is_encoded(headers: Mapping[str, str]) -> bool:
    """Whether a server says that it compressed its answer by gzip."""
    return headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip")


class Inflater:
    """Undoes the compression of one answer, of at most ``limit`` bytes when it is undone."""

    def __init__(self, limit: int) -> None:
        self._zlib = zlib.decompressobj(_GZIP_STREAM)
        self._left = limit

    def feed(self, data: bytes) -> bytes:
        """The next bytes; raises `Damaged`."""
        try:
            found = self._zlib.decompress(data, self._left + 1)
        except zlib.error as error:
            raise Damaged(f"not gzip: {error}") from None
        self._left -= len(found)
        if self._left < 0:
            raise Damaged("more bytes than there may be")
        return found


class BlobInflater:
    """The same of a blob; finds out from its first bytes whether they are compressed once or twice."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._inflater: Inflater | None = Inflater(descriptor.size)
        self._packed = descriptor.media_type.endswith("gzip")
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the blob; raises `Damaged`."""
        if self._inflater is None:
            return data
        found = self._inflater.feed(data)
        if found and not self._begun:
            self._begun = True
            if self._packed and not found.startswith(_GZIP):
                self._inflater = None
                return data
        return found


def inflated(data: bytes, limit: int) -> bytes:
    """A whole answer; raises `Damaged`."""
    return Inflater(limit).feed(data)
