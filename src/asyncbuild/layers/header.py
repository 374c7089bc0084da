"""Tar headers: an entry as header blocks, and one block as its fields. Pure.

What is written (POSIX.1-2017, "pax", ustar interchange format), the same bytes everywhere:

1. One ustar block where the fields hold the entry; a pax header before it only for what they do not:
   a name beyond 100 + 155 bytes or beyond ASCII, a number beyond its octal field, extended attributes.
2. Times are whole seconds, rounded down, as containerd and BuildKit write them. User and group names,
   access and change times are never written.
3. A name that is not UTF-8 stands raw in its ustar field; too long for that it is a pax ``path`` under
   ``hdrcharset=BINARY``.

What is read: those, and the dialects of `asyncbuild.layers.reader`.
"""

from __future__ import annotations

import re
import struct
import zlib
from functools import lru_cache
from typing import Final, NamedTuple

from asyncbuild.errors import LayerError
from asyncbuild.layers.changeset import Entry, Kind

BLOCK: Final = 512
XATTR_RECORD: Final = b"SCHILY.xattr."
MAX_PATH: Final = 4095  # PATH_MAX without its final NUL
MAX_EXTENSION: Final = (
    1 << 20
)  # bytes of one pax or long-name header; Go's archive/tar stops here too
NANOSECONDS: Final = 1_000_000_000
KINDS: Final = {kind.value.encode(): kind for kind in Kind} | {b"\0": Kind.FILE, b"7": Kind.FILE}

_NUMBERS = re.compile(
    rb"([0-7]{7})[\0 ]([0-7]{7})[\0 ]([0-7]{7})[\0 ]([0-7]{11})[\0 ]([0-7]{11})[\0 ]([0-7]{6})[\0 ]{2}"
).match
_FIELDS = struct.Struct("8s8s8s12s12s8s").unpack_from
_CHECKSUM_AT: Final = 148
_BLANK_CHECKSUM: Final = 8 * 0x20
_ADLER_MODULUS: Final = 65521
_OCTAL_8: Final = 0o7777777
_OCTAL_12: Final = 0o77777777777
_TIME_RANGE: Final = range(-(1 << 63) // NANOSECONDS, (1 << 63) // NANOSECONDS)
_LAYOUT = (
    b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%bustar\x0000" + bytes(64) + b"%07o\0%07o\0%b%b"
)
_FILE_TAIL: Final = (
    b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\0" + bytes(167)
)


class Fields(NamedTuple):
    """One header block as it stands: bytes for names, numbers in their units (bytes, seconds)."""

    name: bytes
    flag: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int


# --- writing ----------------------------------------------------------------------------------------


def file_header(  # noqa: PLR0913, PLR0917 - the fields of a header
    name: bytes, mode: int, uid: int, gid: int, size: int, seconds: int
) -> bytes | None:
    """What `encode_header` gives for a file, in a third of the time; None if one block cannot hold it.

    Of ``mode`` only the twelve permission bits count; ``seconds`` is the time of its last change.
    """
    if (
        len(name) > 100
        or not name.isascii()
        or uid > _OCTAL_8
        or gid > _OCTAL_8
        or size > _OCTAL_12
        or not 0 <= seconds <= _OCTAL_12
    ):
        return None
    owner, rest = _owner(mode & 0o7777, uid, gid)
    numbers = b"%011o\0%011o\0" % (size, seconds)
    total = rest + (zlib.adler32(name) & 0xFFFF) + (zlib.adler32(numbers) & 0xFFFF) - 2
    return b"%b%b%b%06o\0 %b" % (name.ljust(100, b"\0"), owner, numbers, total, _FILE_TAIL)


@lru_cache(maxsize=256)
def _owner(mode: int, uid: int, gid: int) -> tuple[bytes, int]:
    """Fields that most files of a layer share; what these and a block's end add to its checksum."""
    fields = b"%07o\0%07o\0%07o\0" % (mode, uid, gid)
    return fields, sum(fields) + sum(_FILE_TAIL) + _BLANK_CHECKSUM


def encode_header(entry: Entry) -> bytes:
    """The header blocks of ``entry``: one, or a pax header of two and more and then one."""
    name = entry.path.encode("utf-8", "surrogateescape")
    if entry.kind is Kind.FILE and not entry.xattrs:
        seconds = entry.mtime_ns // NANOSECONDS
        block = file_header(name, entry.mode, entry.uid, entry.gid, entry.size, seconds)
        if block is not None:
            return block
    if entry.kind is Kind.DIRECTORY:
        name += b"/"
    link = entry.link.encode("utf-8", "surrogateescape")
    numbers = (entry.uid, entry.gid, entry.size if entry.kind is Kind.FILE else 0)
    seconds = entry.mtime_ns // NANOSECONDS
    if (
        len(name) <= 100
        and len(link) <= 100
        and name.isascii()
        and link.isascii()
        and not entry.xattrs
        and max(numbers) <= _OCTAL_8
        and 0 <= seconds <= _OCTAL_12
    ):
        return _block(entry, name, link, (*numbers, seconds))
    records: dict[bytes, bytes] = {}
    head, name = _name_fields(name, records)
    link = _link_field(link, records)
    for key, number, limit in zip(
        (b"uid", b"gid", b"size", b"mtime"),
        (*numbers, seconds),
        (_OCTAL_8, _OCTAL_8, _OCTAL_12, _OCTAL_12),
        strict=True,
    ):
        if not 0 <= number <= limit:
            records[key] = b"%d" % number
    for attribute, value in entry.xattrs:
        records[XATTR_RECORD + _xattr_key(attribute)] = value
    uid, gid, size = (
        0 if key in records else n
        for key, n in zip((b"uid", b"gid", b"size"), numbers, strict=True)
    )
    block = _block(entry, name, link, (uid, gid, size, 0 if b"mtime" in records else seconds), head)
    return (_pax_header(name, records) if records else b"") + block


def padding(size: int) -> int:
    """How many zero bytes fill the last block of ``size`` bytes."""
    return -size % BLOCK


def _name_fields(name: bytes, records: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """The prefix and name fields; what they cannot hold goes into ``records``."""
    ascii_only = name.isascii()
    if len(name) <= 100 and (ascii_only or not _is_utf8(name)):
        return b"", name
    if ascii_only:
        cut = name.rfind(b"/", 0, min(156, len(name) - 1))
        if cut > 0 and len(name) - cut - 1 <= 100:
            return name[:cut], name[cut + 1 :]
    _path_record(b"path", name, records)
    return b"", name[:100]


def _link_field(link: bytes, records: dict[bytes, bytes]) -> bytes:
    if len(link) > 100 or (not link.isascii() and _is_utf8(link)):
        _path_record(b"linkpath", link, records)
    return link[:100]


def _path_record(key: bytes, value: bytes, records: dict[bytes, bytes]) -> None:
    if not _is_utf8(value):
        records[b"hdrcharset"] = b"BINARY"
    records[key] = value


def _xattr_key(attribute: str) -> bytes:
    """The name of an extended attribute in a pax key, where ``=`` cannot stand: escaped as by GNU tar."""
    name = attribute.encode("utf-8", "surrogateescape")
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def xattr_name(key: bytes) -> str:
    """The extended attribute's name that the rest of a ``SCHILY.xattr.`` key stands for."""
    name = key.replace(b"%3D", b"=").replace(b"%25", b"%")
    return name.decode("utf-8", "surrogateescape")


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _block(
    entry: Entry, name: bytes, link: bytes, numbers: tuple[int, int, int, int], prefix: bytes = b""
) -> bytes:
    uid, gid, size, seconds = numbers
    major, minor = entry.device
    return _sealed(
        _LAYOUT
        % (
            name.ljust(100, b"\0"),
            entry.mode & 0o7777,
            uid,
            gid,
            size,
            seconds,
            entry.kind.value.encode(),
            link.ljust(100, b"\0"),
            major,
            minor,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )


def _pax_header(name: bytes, records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    title = (b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2])[:100].ljust(100, b"\0")
    numbers = (0o644, 0, 0, len(body), 0)
    block = _sealed(_LAYOUT % (title, *numbers, b"x", bytes(100), 0, 0, bytes(155), bytes(12)))
    return block + body + bytes(padding(len(body)))


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE`` and a newline, where LENGTH counts its own digits."""
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return b"%d %b=%b\n" % (total, key, value)


def _sealed(block: bytes) -> bytes:
    """``block``, whose checksum field is blank, with its checksum."""
    # Of ASCII bytes alone the sum stays below Adler-32's modulus, which then gives it in C.
    total = (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    return b"%b%06o\0 %b" % (block[:_CHECKSUM_AT], total, block[_CHECKSUM_AT + 8 :])


# --- reading ----------------------------------------------------------------------------------------


def decode_fields(buffer: bytes, start: int) -> Fields:
    """The fields of the header block at ``start``; `LayerError` if it is not one."""
    end = buffer.find(b"\0", start, start + 100)
    name = buffer[start : end if end >= 0 else start + 100]
    match = _NUMBERS(buffer, start + 100)
    if match is not None:
        mode, uid, gid, size, mtime, checksum = (int(number, 8) for number in match.groups())
    else:
        mode, uid, gid, size, mtime, checksum = map(decode_number, _FIELDS(buffer, start + 100))
    if not _checksum_holds(buffer, start, checksum):
        raise LayerError("not a tar archive, or damaged: a header's checksum is wrong")
    if buffer[start + 345]:
        name = with_prefix(buffer, start, name)
    flag = buffer[start + 156 : start + 157]
    return Fields(name, flag, mode & 0o7777, uid, gid, size, mtime)


def with_prefix(buffer: bytes, start: int, name: bytes) -> bytes:
    """``name`` behind its prefix, if what the header at ``start`` has in that place is one."""
    if buffer[start + 257 : start + 263] != b"ustar\0":
        return name
    # star keeps times behind a shorter prefix, and says so in the last four bytes.
    width = 131 if buffer[start + 508 : start + BLOCK] == b"tar\0" else 155
    return text_field(buffer, start + 345, width) + b"/" + name


def text_field(buffer: bytes, start: int, width: int) -> bytes:
    """The bytes of a field up to its first NUL."""
    return buffer[start : start + width].partition(b"\0")[0]


def decode_number(field: bytes) -> int:
    """An octal number between spaces and NULs, or a base-256 one (GNU, star); `LayerError` if neither."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise LayerError(f"a tar header has {field!r} where a number belongs")
    return int(digits, 8)


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header: its checksum is right, of signed bytes or unsigned ones
    (POSIX pax, "ustar Interchange Format"; old tars summed signed bytes).
    """
    if len(block) < BLOCK:
        return False
    try:
        stated = int(block[_CHECKSUM_AT : _CHECKSUM_AT + 8].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return _checksum_holds(block, 0, stated)


def _checksum_holds(buffer: bytes, start: int, checksum: int) -> bool:
    block = memoryview(buffer)[start : start + BLOCK]
    stored = sum(block[_CHECKSUM_AT : _CHECKSUM_AT + 8])
    # The low half of Adler-32 is 1 + the sum of the bytes modulo 65521: in C, where sum() takes 5 us.
    expected = (1 + checksum - _BLANK_CHECKSUM + stored) % _ADLER_MODULUS
    if zlib.adler32(block) & 0xFFFF == expected:
        return True
    signed = sum(
        byte - 256 if byte > 127 else byte for byte in block
    )  # some old tars sum signed bytes
    return (
        signed - sum(b - 256 if b > 127 else b for b in block[148:156]) + _BLANK_CHECKSUM
        == checksum
    )


def decode_device(buffer: bytes, start: int) -> tuple[int, int]:
    """(major, minor) of the header block at ``start``; `LayerError` if Linux has no such numbers."""
    major = decode_number(buffer[start + 329 : start + 337])
    minor = decode_number(buffer[start + 337 : start + 345])
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise LayerError(f"a device has the impossible numbers {major}, {minor}")
    return major, minor


def decode_records(body: bytes) -> list[tuple[bytes, bytes]]:
    """The records of a pax header, in their order; `LayerError` if they are not well formed."""
    records: list[tuple[bytes, bytes]] = []
    start = 0
    while start < len(body):
        space = body.find(b" ", start, start + 8)
        digits = body[start:space] if space > 0 else b""
        end = start + int(digits) if digits.isdigit() else 0
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(body) or body[end - 1 : end] != b"\n" or not key or not equals:
            raise LayerError("a pax header is damaged")
        records.append((key, value))
        start = end
    return records


def decode_time(text: bytes) -> int:
    """A pax time in seconds, with a fraction perhaps, in nanoseconds."""
    match = re.fullmatch(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?", text)
    if match is None:
        raise LayerError(f"a pax header has the time {text[:40]!r}")
    fraction = (match[3] or b"")[:9].ljust(9, b"0")
    value = int(match[2]) * NANOSECONDS + int(fraction)
    return bounded_time(-value if match[1] else value)


def bounded_time(nanoseconds: int) -> int:
    """A time that a file can have: one beyond 64 bits of nanoseconds is 0, as in containerd."""
    return nanoseconds if nanoseconds // NANOSECONDS in _TIME_RANGE else 0
