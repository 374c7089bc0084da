"""The maps of sparse files in tars, in the four ways that GNU tar has written them. Pure.

Source: the GNU tar manual, "Storing Sparse Files": the old GNU format, and 0.0, 0.1 and 1.0 in pax.
"""

from __future__ import annotations

from asyncbuild.errors import LayerError
from asyncbuild.layers.header import BLOCK, decode_number
from asyncbuild.records import dataclass

Segments = list[tuple[int, int]]
"""(offset, length) of the stretches that hold data, in bytes."""


@dataclass(frozen=True, slots=True)
class SparseLayout:
    """What pax records say of a sparse file; ``map_in_data``: the map precedes the content (1.0)."""

    size: int
    segments: Segments
    name: bytes = b""
    map_in_data: bool = False


def from_records(records: tuple[tuple[bytes, bytes], ...]) -> SparseLayout | None:
    """The layout of a sparse file in pax formats 0.0, 0.1 and 1.0; None if the file is none."""
    values = {key: value for key, value in records if key.startswith(b"GNU.sparse.")}
    if not values:
        return None
    name = values.get(b"GNU.sparse.name", b"")
    if b"GNU.sparse.major" in values:
        if (values[b"GNU.sparse.major"], values.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise LayerError("a sparse file in the tar has an unknown format")
        return SparseLayout(
            _number(values.get(b"GNU.sparse.realsize", b"")), [], name, map_in_data=True
        )
    size = _number(values.get(b"GNU.sparse.size", values.get(b"GNU.sparse.realsize", b"")))
    if b"GNU.sparse.map" in values:
        numbers = [_number(text) for text in values[b"GNU.sparse.map"].split(b",") if text]
    else:
        keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        numbers = [_number(value) for key, value in records if key in keys]
    if len(numbers) % 2:
        raise LayerError("a sparse file's map in the tar is damaged")
    return SparseLayout(size, list(zip(numbers[::2], numbers[1::2], strict=True)), name)


def old_gnu_segments(table: bytes) -> Segments:
    """The used rows of 24 bytes of an old GNU map: offset and length as header numbers."""
    rows = (table[at : at + 24] for at in range(0, len(table), 24))
    return [(decode_number(row[:12]), decode_number(row[12:])) for row in rows if row[0]]


def map_segments(text: bytes) -> Segments | None:
    """The map of format 1.0: a count, then offset and length each on a line, filled to a block.

    None when ``text``, some whole blocks, does not hold all of it yet.
    """
    lines = text.split(b"\n")
    if len(lines) < 2:
        return None
    count = _number(lines[0])
    wanted = 1 + 2 * count
    if len(lines) <= wanted:
        return None
    used = sum(len(line) + 1 for line in lines[:wanted])
    if len(text) - used >= BLOCK:
        raise LayerError("a sparse file's map in the tar is damaged")
    numbers = [_number(line) for line in lines[1:wanted]]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def checked(segments: Segments, size: int, stored: int, path: str) -> tuple[tuple[int, int], ...]:
    """``segments`` if they lie in order within ``size`` and hold ``stored`` bytes; else `LayerError`."""
    end = 0
    for offset, length in segments:
        if offset < end or length < 0:
            raise LayerError(f"{path!r}: the map of this sparse file is damaged")
        end = offset + length
    if end > size or sum(length for _, length in segments) != stored:
        raise LayerError(f"{path!r}: the map of this sparse file does not fit its content")
    return tuple(segment for segment in segments if segment[1])


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise LayerError(f"a sparse file's map in the tar has {text[:40]!r} where a number belongs")
    return int(text)
