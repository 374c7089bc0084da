"""Reading tars: every dialect, every way to cut the stream, every kind of damage."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.errors import LayerError
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.reader import TarReader, clean_name
from support.layers import directory, hardlink, member, pieces, symlink, tar

_FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read(blocks: list[bytes]) -> list[tuple[Entry, bytes]]:
    """Every entry with its content, some taken whole and some in pieces."""
    reader = TarReader(blocks)
    found = []
    for entry in reader:
        data = reader.whole() if entry.size % 2 else None
        if data is None:
            data = memoryview(b"".join(bytes(piece) for piece in reader.pieces()))
        found.append((entry, bytes(data)))
    return found


_SAMPLE = tar(
    directory("d/", uid=1000, gid=5, mtime=1.5),
    member("d/file", data=b"x" * 1300, mtime=1_700_000_000),
    member("d/" + "long" * 60, data=b"y" * 512, pax_headers={"SCHILY.xattr.user.k": "v"}),
    symlink("d/link", "../" + "t" * 150),
    hardlink("d/hard", "d/file"),
    member("empty"),
)


@given(st.lists(st.integers(0, len(_SAMPLE)), max_size=12))
def test_chunking_is_irrelevant(cut: list[int]) -> None:
    """However the stream is cut, the entries and their bytes are the same."""
    assert read(pieces(_SAMPLE, cut)) == read([_SAMPLE])


def read_plainly(blocks: list[bytes]) -> list[tuple[Entry, bytes]]:
    """The same as `read`, with plain files wherever the reader has any."""
    reader = TarReader(blocks)
    found = []
    while True:
        for head, name, (mode, uid, gid), (accessed, seconds), data in reader.plain_files():
            assert accessed == seconds
            path = f"{head}/{os.fsdecode(name)}" if head else os.fsdecode(name)
            entry = Entry(path, Kind.FILE, mode, uid, gid, seconds * 10**9, len(data))
            found.append((entry, bytes(data)))
        other = next(reader, None)
        if other is None:
            return found
        found.append((other, b"".join(bytes(piece) for piece in reader.pieces())))


def prefixed(name: str) -> bytes:
    """An empty file whose name is in two fields of a ustar header."""
    return tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)


_MANY = tar(
    member("a", data=b"1" * 511, mode=0o4755, uid=7, gid=8, mtime=8**11 - 1),
    member("d/b", data=b"2" * 512, mode=0o600),
    member("./d//c", data=b"3" * 513),
    member("/d/\udcff\xfc"),
    prefixed("p" * 140 + "/" + "n" * 99),
    directory("d"),
    member("d/.wh.b"),
    member("e/..data", data=b"5", mtime=1.25),
    member("e/."),
    member("e/v7", b"\0", data=b"6"),
    member("e/contiguous", b"7", data=b"7"),
    symlink("e/link", "v7"),
    hardlink("e/hard", "e/v7"),
    member("e/own", data=b"8" * 1025, uid=0o10000000, gid=1),
    member("f", data=b"9"),
)


@pytest.mark.parametrize("sample", [_SAMPLE, _MANY])
@given(cut=st.lists(st.integers(0, len(_MANY)), max_size=12))
def test_plain_files_are_what_the_iterator_gives(sample: bytes, cut: list[int]) -> None:
    """However the stream is cut, and whichever of the entries are plain."""
    blocks = pieces(sample, [place for place in cut if place <= len(sample)])
    assert read_plainly(blocks) == read([sample])


def test_which_files_are_plain() -> None:
    """Names with a prefix are, whatever their owners and modes; not whiteouts, other flags, pax headers, nor
    what is cut off.
    """
    reader = TarReader([_MANY])
    runs = []
    while True:
        runs.append([os.fsdecode(name)[:5] for _, name, *_ in reader.plain_files()])
        if next(reader, None) is None:
            break
    assert [run for run in runs if run] == [["a", "b", "c"], ["nnnnn"], ["f"]]
    assert list(TarReader([_MANY[:700], _MANY[700:]]).plain_files()) == []


def _with_checksum(header: bytes) -> bytes:
    """A header with the right checksum in the usual form."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


@pytest.mark.parametrize("at", [100, 108, 116, 124, 136, 148])
@pytest.mark.parametrize(
    "text", [b"+0000", b" 0000", b"0_000", b"00008", b"0x000", b"\x80\0\0\0\0", b"-1"]
)
def test_numbers_are_read_as_the_iterator_reads_them(at: int, text: bytes) -> None:
    """What Python takes for a number and tar does not is none; a wrong checksum is damage either way."""
    header = bytearray(member("f"))
    header[at : at + len(text)] = text
    block = bytes(header) if at == 148 else _with_checksum(bytes(header))
    results: list[object] = []
    for reading in (read, read_plainly):
        try:
            results.append(reading([block + bytes(1024)]))
        except LayerError as error:
            results.append(error.message)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "name", ["../f", "d/../../f", "/..", ".", "..", "d/..", "d/.", "n" * 100 + "/"]
)
def test_names_that_leave_the_root_are_no_plain_files(name: str) -> None:
    """What is wrong with them the iterator of entries says."""
    reader = TarReader([tar(member(name, data=b"x"))])
    assert list(reader.plain_files()) == []


def test_byte_by_byte() -> None:
    """A stream that comes a byte at a time is read as well."""
    assert read([_SAMPLE[i : i + 1] for i in range(len(_SAMPLE))]) == read([_SAMPLE])


def test_what_the_sample_holds() -> None:
    """Times below a second, attributes, long names and links come out of pax headers."""
    (d, _), (first, data), (long, _), (link, _), (hard, _), (empty, _) = read([_SAMPLE])
    assert d == Entry("d", Kind.DIRECTORY, 0o755, 1000, 5, 1_500_000_000)
    assert (first.size, data) == (1300, b"x" * 1300)
    assert long.path == "d/" + "long" * 60
    assert long.xattrs == (("user.k", b"v"),)
    assert (link.kind, link.link) == (Kind.SYMLINK, "../" + "t" * 150)
    assert (hard.kind, hard.link) == (Kind.HARDLINK, "d/file")
    assert empty == Entry("empty", Kind.FILE)


@pytest.mark.parametrize("form", _FORMATS)
@pytest.mark.parametrize("name", ["a", "d" * 90 + "/" + "n" * 90, "ü/日本"])
def test_formats_of_the_standard_library(form: int, name: str) -> None:
    """The same entry in ustar, GNU and pax."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.uid, info.mtime = 5, 70_000, 1_700_000_000
        info.uname = "someone"
        archive.addfile(info, io.BytesIO(b"hello"))
    entry = Entry(name, Kind.FILE, 0o644, 70_000, 0, 1_700_000_000 * 10**9, 5)
    assert read([out.getvalue()]) == [(entry, b"hello")]


def test_large_numbers_in_gnu_format() -> None:
    """An owner beyond seven octal digits is a base-256 number."""
    info = tarfile.TarInfo("f")
    info.uid, info.mtime = 3_000_000, -5
    block = info.tobuf(tarfile.GNU_FORMAT)
    ((entry, _),) = read([block + bytes(1024)])
    assert (entry.uid, entry.mtime_ns) == (3_000_000, -5 * 10**9)


def test_a_star_header_has_a_shorter_prefix() -> None:
    """Star keeps times where ustar's prefix ends."""
    block = bytearray(member("name"))
    block[257:265] = b"ustar\x0000"
    block[345:348] = b"dir"
    block[476:488] = b"14600000000 "
    block[508:512] = b"tar\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    ((entry, _),) = read([bytes(block) + bytes(1024)])
    assert entry.path == "dir/name"


def test_a_v7_directory_is_a_file_with_a_slash() -> None:
    """Type 0 and a trailing slash, as tars before POSIX have directories."""
    ((entry, _),) = read([tar(member("d/", tarfile.REGTYPE))])
    assert (entry.path, entry.kind) == ("d", Kind.DIRECTORY)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("./a", "a"),
        ("/a", "a"),
        ("a/", "a"),
        ("a//b", "a/b"),
        ("a/./b/.", "a/b"),
        ("./", ""),
        (".", ""),
        ("/", ""),
        ("a/..b", "a/..b"),
        ("...", "..."),
    ],
)
def test_names_come_out_clean(name: str, clean: str) -> None:
    """Relative to the root, without empty and dot components."""
    assert clean_name(name) == clean
    ((entry, _),) = read([tar(directory(name))])
    assert entry.path == clean


@pytest.mark.parametrize("name", ["..", "../a", "a/../b", "a/..", "/../a", "./../a", "a/../../b"])
def test_names_that_leave_the_root(name: str) -> None:
    """A ``..`` component is refused, and the message says which name has it."""
    with pytest.raises(LayerError, match="leaves the root"):
        read([tar(member(name))])
    with pytest.raises(LayerError, match="leaves the root"):
        read([tar(hardlink("x", name))])


@pytest.mark.parametrize(
    "bad",
    [
        member("f", b"Z"),
        member("n" * 4097 + "/x"),
        member("n" * 260),
        member("f", tarfile.LNKTYPE, linkname=""),
        member("f", tarfile.SYMTYPE, linkname=""),
        member("f", uid=2**32 - 1),
        member("f", uid=-1),
        member("f", pax_headers={"size": "many"}),
        member("f", tarfile.CHRTYPE, devmajor=5000, devminor=1),
        bytes(512) + member("f"),
        b"not a tar at all, but long enough".ljust(512, b"?"),
    ],
)
def test_hostile_or_damaged_entries(bad: bytes) -> None:
    """Each is an error of the layer, and none is an error of Python."""
    with pytest.raises(LayerError):
        read([bad + bytes(1024)])


def test_every_truncation_inside_an_entry_is_noticed() -> None:
    """A stream that stops between entries is taken as ended; anywhere else it is an error."""
    edges = set()
    reader = TarReader([_SAMPLE])
    for _ in reader:
        for _piece in reader.pieces():
            pass
    content = len(_SAMPLE) - 1024
    for end in range(content):
        try:
            count = len(read([_SAMPLE[:end]]))
        except LayerError:
            continue
        edges.add((end, count))
    assert {count for _, count in edges} == {0, 1, 2, 3, 4, 5}
    assert all(end % 512 == 0 for end, _ in edges)


def test_an_extension_is_bounded() -> None:
    """A pax header of more than a MiB is refused before it is read."""
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, (1 << 20) + 1
    with pytest.raises(LayerError, match="extension"):
        read([info.tobuf() + bytes(1024)])


def test_global_headers_are_ignored_as_runtimes_do() -> None:
    """Git archive writes one with a comment; one with a path must not rename anything."""
    text = b"14 path=other\n" + b"19 comment=deadbeef"[:18] + b"\n"
    info = tarfile.TarInfo("pax_global_header")
    info.type, info.size = tarfile.XGLTYPE, len(text)
    head = info.tobuf() + text.ljust(512, b"\0")
    ((entry, _),) = read([head + tar(member("own"))])
    assert entry.path == "own"


def test_a_link_has_no_content_whatever_it_claims() -> None:
    """The size of a hardlink is not skipped as content (Go's reader, and so every runtime)."""
    entries = read([tar(hardlink("b", "a", size=512), member("c", data=b"c"))])
    assert [entry.path for entry, _ in entries] == ["b", "c"]


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ],
)
def test_sparse_files_of_gnu_tar(options: list[str], shm_path: Path) -> None:
    """The map is right in all four formats, with more stretches than fit the first header."""
    size = (1 << 20) + 77
    content = bytearray(size)
    with open(shm_path / "sparse", "wb") as target:
        target.truncate(size)
        for number in range(30):
            at = number * 32768
            target.seek(at)
            target.write(b"data %d" % number)
            content[at : at + 7] = (b"data %d" % number)[:7].ljust(7, b"\0")
    command = [
        "tar",
        "--sparse",
        "--hole-detection=raw",
        *options,
        "-C",
        str(shm_path),
        "-cf",
        "-",
        "sparse",
    ]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    reader = TarReader(pieces(packed, range(0, len(packed), 999)))
    entry = next(reader)
    assert (entry.path, entry.size) == ("sparse", size)
    assert reader.segments is not None
    data = b"".join(bytes(piece) for piece in reader.pieces())
    whole = bytearray(size)
    start = 0
    for offset, length in reader.segments:
        whole[offset : offset + length] = data[start : start + length]
        start += length
    assert bytes(whole) == (shm_path / "sparse").read_bytes()
    assert next(reader, None) is None


@pytest.mark.parametrize(
    "text", ["0,5,3,5", "0,100", "0,1,9999999999,5", "5", "-1,5", "0,5,", "a,b"]
)
def test_sparse_maps_that_lie(text: str) -> None:
    """Stretches out of order, beyond the file, or not as long as the content."""
    headers = {"GNU.sparse.size": "20", "GNU.sparse.map": text}
    with pytest.raises(LayerError):
        read([tar(member("s", data=b"0123456789", pax_headers=headers))])
