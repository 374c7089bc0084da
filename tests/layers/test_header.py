"""Tar headers as we write them, and as others read them."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.errors import LayerError
from asyncbuild.layers.changeset import ChangeSet, Entry, Kind
from asyncbuild.layers.header import (
    BLOCK,
    decode_fields,
    decode_number,
    decode_records,
    decode_time,
    encode_header,
)
from asyncbuild.layers.reader import TarReader
from support.layers import NAMES, change_sets

_FILE = Entry("etc/os-release", Kind.FILE, 0o644, 0, 0, 1_700_000_000_999_999_999, 0)


def test_a_plain_entry_is_one_ustar_block() -> None:
    """No pax header where ustar says everything; the time is rounded down; no names of users."""
    block = encode_header(_FILE)
    assert len(block) == BLOCK
    assert block[257:265] == b"ustar\x0000"
    assert block[265:329] == bytes(64)
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    assert (info.name, info.mode, info.mtime) == ("etc/os-release", 0o644, 1_700_000_000)


def test_bytes_are_pinned() -> None:
    """The exact header, so that a change of it is seen: diff ids are promised to be stable."""
    expected = (
        b"usr/bin/".ljust(100, b"\0")
        + b"0000755\x000000000\x000000012\x0000000000000\x0000000000007\x00010600\0 5"
        + bytes(100)
        + b"ustar\x0000"
        + bytes(64)
        + b"0000000\x000000000\x00"
        + bytes(167)
    )
    entry = Entry("usr/bin", Kind.DIRECTORY, 0o755, 0, 10, 7_000_000_000)
    assert encode_header(entry) == expected


@pytest.mark.parametrize(
    ("path", "blocks"),
    [
        ("a" * 100, 1),
        ("p" * 155 + "/" + "n" * 100, 1),
        ("p" * 156 + "/" + "n" * 100, 3),
        ("a" * 101, 3),
        ("ü", 3),
        ("\udcff", 1),
        ("\udcff" * 101, 3),
    ],
)
def test_a_pax_header_only_where_it_is_needed(path: str, blocks: int) -> None:
    """Long ASCII paths use the prefix; a name that is not UTF-8 stands raw while it fits."""
    header = encode_header(Entry(path, Kind.FILE))
    assert len(header) == blocks * BLOCK
    with tarfile.open(
        fileobj=io.BytesIO(header + bytes(1024)), encoding="utf-8", errors="surrogateescape"
    ) as archive:
        assert archive.getnames() == [path]


@given(change_sets())
def test_every_entry_comes_back(changes: ChangeSet) -> None:
    """What is encoded is decoded as it was, but for times below a second."""
    entries = changes.additions
    stream = b"".join(
        encode_header(entry) + bytes(entry.size + -entry.size % BLOCK)
        if entry.kind is Kind.FILE
        else encode_header(entry)
        for entry in entries
    )
    found = list(TarReader([stream + bytes(1024)]))
    assert [(e.path, e.kind, e.mode, e.uid, e.gid, e.mtime_ns) for e in found] == [
        (e.path, e.kind, e.mode, e.uid, e.gid, e.mtime_ns) for e in entries
    ]
    assert [(e.link, e.device, e.size, e.xattrs) for e in found] == [
        (e.link, e.device, e.size, e.xattrs) for e in entries
    ]


@given(st.lists(NAMES, min_size=1, max_size=4), st.binary(max_size=100))
def test_the_standard_library_reads_our_headers(names: list[str], value: bytes) -> None:
    """Tarfile sees the same path and the same attribute."""
    path = "/".join(names)
    entry = Entry(path, Kind.FILE, xattrs=(("user.x", value),))
    with tarfile.open(
        fileobj=io.BytesIO(encode_header(entry) + bytes(1024)),
        encoding="utf-8",
        errors="surrogateescape",
    ) as archive:
        (info,) = archive.getmembers()
    assert info.name == path
    stored = info.pax_headers["SCHILY.xattr.user.x"].encode("utf-8", "surrogateescape")
    assert stored == value


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    """Some old tars sum bytes as signed numbers; the difference shows only beyond ASCII."""
    block = bytearray(encode_header(Entry("\udcff\udcfe", Kind.FILE)))
    block[148:156] = b"        "
    total = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    assert decode_fields(bytes(block), 0).name == b"\xff\xfe"


def test_any_wrong_bit_is_noticed() -> None:
    """A header in which one byte changed is not believed."""
    block = encode_header(_FILE)
    for position in (0, 100, 124, 140, 150, 156, 300, 511):
        damaged = bytearray(block)
        damaged[position] ^= 0x10
        with pytest.raises(LayerError):
            decode_fields(bytes(damaged), 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"644\0 \0\0\0", 0o644),
        (b"\0" * 8, 0),
        (b"00000644", 0o644),
        (b"\x80" + (5_000_000).to_bytes(7, "big"), 5_000_000),
        (b"\xff" * 8, -1),
        (b"\xff" * 11 + b"\xfe", -2),
    ],
)
def test_numbers_of_every_dialect(field: bytes, value: int) -> None:
    """Octal with spaces, NULs or neither, and GNU's base 256, negative too."""
    assert decode_number(field) == value


@pytest.mark.parametrize(
    "field", [b"0000688\0", b"+000644\0", b"-000644\0", b"0o00644\0", b"0_00644\0"]
)
def test_what_int_would_take_is_no_number(field: bytes) -> None:
    """Python's int() is more generous than tar."""
    with pytest.raises(LayerError):
        decode_number(field)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"1", 10**9),
        (b"1.5", 1_500_000_000),
        (b"-1.5", -1_500_000_000),
        (b"1700000000.123456789123", 1_700_000_000_123_456_789),
        (b"99999999999999999999", 0),
    ],
)
def test_pax_times(text: bytes, value: int) -> None:
    """Nanoseconds exactly; what no file can have is the epoch."""
    assert decode_time(text) == value


@pytest.mark.parametrize(
    "body",
    [
        b"5 a=b\n",
        b"9999999 a=b\n",
        b"7 a=b\n",
        b"6 ab \n",
        b"x a=b\n",
        b"0 \n",
        b"6 =bc\n",
        b"-6 a=b\n",
    ],
)
def test_damaged_records(body: bytes) -> None:
    """A pax record must be what its length says."""
    with pytest.raises(LayerError):
        decode_records(body)
