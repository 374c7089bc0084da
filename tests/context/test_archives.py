"""Recognising archives by their content, against every compression, and what only looks like one."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import pytest

from asyncbuild.context.archives import is_archive, is_archive_file
from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import Entry, FileSource, InlineSource, Kind
from asyncbuild.layers.header import is_header
from support.images import Node, make_tar
from support.sources import archive


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("size", [0, 100, 3 << 20])
def test_archives(shm_path: Path, compression: str, size: int) -> None:
    """Small and large first files; a bzip2 block is read to its end before it gives anything."""
    path = shm_path / "a"
    content = random.Random(1).randbytes(size)
    path.write_bytes(archive([Node("file", content=content)], compression))
    assert is_archive_file(str(path))
    assert is_archive(Entry("a", Kind.FILE, source=FileSource(str(path))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        bytes(1024),
        b"\x1f\x8b\x08damaged",
        b"BZh9damaged",
        b"\xfd7zXZ\0damaged",
        b"\x28\xb5\x2f\xfddamaged",
        make_tar([Node("f")])[:511],
    ],
)
def test_no_archives(shm_path: Path, data: bytes) -> None:
    """Nothing, zeros, damage, half a header."""
    path = shm_path / "a"
    path.write_bytes(data)
    assert not is_archive_file(str(path))


def test_what_is_no_file_is_no_archive() -> None:
    """Directories, and files that the Dockerfile itself holds."""
    assert not is_archive(Entry("d", Kind.DIRECTORY))
    assert not is_archive(Entry("f", Kind.FILE, source=InlineSource(make_tar([Node("f")]))))


def test_a_file_that_cannot_be_read(shm_path: Path) -> None:
    """The error says which."""
    with pytest.raises(InputError, match="nowhere"):
        is_archive_file(str(shm_path / "nowhere"))


def test_old_tars_summed_signed_bytes() -> None:
    """A header whose checksum is of signed characters, as some old systems wrote it."""
    info = tarfile.TarInfo("ä" * 10)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "latin-1"))
    block[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % signed
    assert is_header(bytes(block))
