"""Headers as most files of a layer have them, read by looking up what fields of others said before. Pure.

Owners, modes and times are a few in a layer, so a field is parsed when it is first met. A checksum is two
halves, each of them looked up too. What is no file, or has more than digits in a field, is not told here:
`asyncbuild.layers.header` has the whole of the format, and the words for what is wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from asyncbuild.layers.header import BLOCK, with_prefix

T = TypeVar("T")
Owner = tuple[int, int, int]
"""Mode (its twelve permission bits), user and group. Equal ones that follow each other are one object."""
Times = tuple[int, int]
"""The time of the last change, in seconds, twice: as ``utime`` takes it."""

_MOST: Final = 4096
_FILE: Final = ord("0")
_BLANK_CHECKSUM: Final = 8 * 0x20


class _Known(dict[bytes, T], Generic[T]):
    """What fields say; no more of them than may be kept."""

    def __init__(self, read: Callable[[bytes], T]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, field: bytes) -> T:
        if len(self) >= _MOST:
            self.clear()
        value = self[field] = self._read(field)
        return value


class PlainHeaders:
    """Decodes headers of one tar."""

    def __init__(self) -> None:
        self._owners = _Known(_owner)
        self._times = _Known(_times)
        self._high = _Known(_high_half)
        self._low = _Known(_low_half)

    def decode(
        self, buffer: bytes, view: memoryview, start: int
    ) -> tuple[bytes, Owner, Times, int] | None:
        """Name, owner, times and size in bytes that a block says at ``start``; None if it is not plain.

        ``view`` is one of ``buffer``.
        """
        if buffer[start + 156] != _FILE:
            return None
        try:
            owner = self._owners[buffer[start + 100 : start + 124]]
            times = self._times[buffer[start + 136 : start + 148]]
            expected = (
                self._high[buffer[start + 148 : start + 151]]
                + self._low[buffer[start + 151 : start + 156]]
            )
            size = _octal(buffer[start + 124 : start + 136])
        except ValueError:
            return None
        # The low half of Adler-32 is 1 + the sum of the bytes, of plain text far below its modulus.
        if zlib.adler32(view[start : start + BLOCK]) & 0xFFFF != expected:
            return None
        end = buffer.find(b"\0", start, start + 100)
        name = buffer[start : end if end >= 0 else start + 100]
        if buffer[start + 345]:
            name = with_prefix(buffer, start, name)
        return name, owner, times, size


def _octal(field: bytes) -> int:
    """Digits and a NUL or space; ValueError if it is anything else."""
    digits = field[:-1]
    if not digits.isdigit() or field[-1] not in b"\0 ":
        raise ValueError(field)
    return int(digits, 8)


def _owner(field: bytes) -> Owner:
    return _octal(field[:8]) & 0o7777, _octal(field[8:16]), _octal(field[16:])


def _times(field: bytes) -> Times:
    seconds = _octal(field)
    return seconds, seconds


def _high_half(field: bytes) -> int:
    """What the first three digits of a checksum say, and what they add to the sum of the block's bytes."""
    if not field.isdigit():
        raise ValueError(field)
    return int(field, 8) * 0o1000 + sum(field)


def _low_half(field: bytes) -> int:
    """The same of the other three and what ends them; the field was blank when the sum was taken."""
    if not field[:3].isdigit() or field[3] not in b"\0 ":
        raise ValueError(field)
    return _octal(field[:3] + field[4:]) + sum(field) + 1 - _BLANK_CHECKSUM
