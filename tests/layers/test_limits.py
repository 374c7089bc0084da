"""Bombs: small blobs of which a large layer comes are stopped, and cost no memory."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard

from asyncbuild.errors import LayerError
from asyncbuild.image.digest import Digest
from asyncbuild.layers import limits as limits_module
from asyncbuild.layers.compression import inflate
from asyncbuild.layers.extract import ExtractJob, extract
from asyncbuild.layers.limits import FREE, LIMITS, NO_LIMITS, LayerLimits
from asyncbuild.layers.unpack import UnpackJob, unpack
from support.layers import hardlink, member, tar

MIB = 1 << 20
ZEROS = member("zeros", data=bytes(24 * MIB))


def unpacked(blob: bytes, root: Path, limits: LayerLimits) -> None:
    """Unpack ``blob`` below ``root`` within ``limits``."""
    root.mkdir()
    unpack(UnpackJob(str(root), Digest.of(blob), len(blob), None, None, limits), [blob])


def zstd(data: bytes) -> bytes:
    """``data`` as a zstd frame."""
    return zstandard.ZstdCompressor(3).compress(data)


def xz(data: bytes) -> bytes:
    """``data`` as an xz stream."""
    return lzma.compress(data, preset=0)


def test_limits() -> None:
    """A size, a ratio beyond what is free, a number of entries; 0 is no limit."""
    LIMITS.check_inflated(FREE, 1)
    with pytest.raises(LayerError, match="500 times"):
        LIMITS.check_inflated(FREE + 1, 1)
    LIMITS.check_inflated(FREE + 1, FREE // 500 + 1)
    with pytest.raises(LayerError, match="more than 10 bytes"):
        LayerLimits(size=10).check_inflated(11, 11)
    with pytest.raises(LayerError, match="10 bytes"):
        LayerLimits(size=10).check_files(1, 11)
    with pytest.raises(LayerError, match="more than 3 entries"):
        LayerLimits(entries=3).check_files(4, 0)
    NO_LIMITS.check_inflated(1 << 60, 1)
    NO_LIMITS.check_files(1 << 40, 1 << 60)


@pytest.mark.parametrize("codec", [gzip.compress, zstd, xz])
def test_a_layer_that_is_too_large(codec: object, shm_path: Path) -> None:
    """Whatever the compression, not more is written than may be, and the hint names the option."""
    assert callable(codec)
    blob = codec(tar(ZEROS))
    with pytest.raises(LayerError, match="more than 10485760 bytes") as caught:
        unpacked(blob, shm_path / "out", LayerLimits(size=10 * MIB))
    assert "--max-layer-size" in (caught.value.hint or "")
    written = sum(path.stat().st_blocks * 512 for path in (shm_path / "out").iterdir())
    assert written <= 12 * MIB


@pytest.mark.parametrize("codec", [zstd, xz])
def test_a_layer_that_is_compressed_too_well(
    codec: object, shm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what is free a layer may not be hundreds of times its blob."""
    assert callable(codec)
    monkeypatch.setattr(limits_module, "FREE", 8 * MIB)
    blob = codec(tar(ZEROS))
    assert 500 * len(blob) < 24 * MIB
    with pytest.raises(LayerError, match="500 times as large as its blob"):
        unpacked(blob, shm_path / "out", LIMITS)


def test_not_one_small_file_more_than_may_be(shm_path: Path) -> None:
    """Of many small files those within the limit are written, and not the next."""
    blob = tar(*(member(f"{number}", data=b"xxxx") for number in range(9)))
    unpacked(blob, shm_path / "within", LayerLimits(entries=9, size=len(blob)))
    with pytest.raises(LayerError, match="more than 5 entries"):
        unpacked(blob, shm_path / "beyond", LayerLimits(entries=5))
    assert len(list((shm_path / "beyond").iterdir())) == 5


def test_an_archive_for_add_is_limited_too(shm_path: Path) -> None:
    """What ADD unpacks comes from anywhere."""
    (shm_path / "bomb.tar.gz").write_bytes(gzip.compress(tar(ZEROS)))
    (shm_path / "out").mkdir()
    job = ExtractJob(str(shm_path / "bomb.tar.gz"), str(shm_path / "out"), LayerLimits(size=MIB))
    with pytest.raises(LayerError, match="more than 1048576 bytes"):
        extract(job)


def test_a_bomb_costs_no_memory() -> None:
    """What comes out passes by in pieces."""
    blob = gzip.compress(bytes(64 * MIB), 9)
    tracemalloc.start()
    try:
        assert sum(len(piece) for piece in inflate([blob])) == 64 * MIB
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


def test_a_stream_that_wants_memory() -> None:
    """An xz stream may ask for gigabytes before its first byte: refused."""
    blob = bytearray(lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
    at = blob.index(b"\x21\x01") + 2  # the filter's one byte of properties: the dictionary's size
    blob[at] = 38  # 2 GiB
    header = bytes(blob[12 : 12 + (blob[12] + 1) * 4 - 4])
    blob[12 + len(header) : 16 + len(header)] = zlib.crc32(header).to_bytes(4, "little")
    with pytest.raises(LayerError, match="xz stream is damaged"):
        list(inflate([bytes(blob)]))


def test_a_sparse_file_of_nothing(shm_path: Path) -> None:
    """Holes count: a file of terabytes that takes no byte would be read by whoever copies it."""
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "huge",
        "GNU.sparse.realsize": str(1 << 50),
    }
    blob = tar(member("GNUSparseFile.0/huge", data=b"0\n".ljust(512, b"\0"), pax_headers=pax))
    with pytest.raises(LayerError, match="its files have more than"):
        unpacked(blob, shm_path / "out", LIMITS)


def test_more_sparse_files_than_any_disk(shm_path: Path) -> None:
    """A file beyond what the file system takes is the layer's fault, limits or not."""
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "huge",
        "GNU.sparse.realsize": str((1 << 63) - 1),
    }
    blob = tar(member("GNUSparseFile.0/huge", data=b"0\n".ljust(512, b"\0"), pax_headers=pax))
    unpacked_size = (1 << 63) - 1
    try:
        unpacked(blob, shm_path / "out", NO_LIMITS)
    except LayerError:
        return
    assert (shm_path / "out/huge").stat().st_size == unpacked_size


def test_too_many_entries(shm_path: Path) -> None:
    """An inode for each is what an entry costs."""
    members = [member(f"f{number}") for number in range(50)]
    with pytest.raises(LayerError, match="more than 49 entries"):
        unpacked(tar(*members), shm_path / "out", LayerLimits(entries=49))
    unpacked(tar(*members), shm_path / "enough", LayerLimits(entries=50))


PAX = {
    "a path that leaves": {"path": "../../evil"},
    "a size below nothing": {"size": "-1"},
    "a size beyond all": {"size": "9" * 30},
    "an owner that is none": {"uid": "4294967295"},
    "an owner below nothing": {"gid": "-5"},
    "a time that is none": {"mtime": "yesterday"},
    "a path with a NUL": {"path": "a\0b"},
    "a sparse file's name that leaves": {
        "GNU.sparse.size": "1",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.name": "../../evil",
    },
}


@pytest.mark.parametrize("records", PAX.values(), ids=PAX)
def test_pax_headers_that_override(records: dict[str, str], shm_path: Path) -> None:
    """What a pax header says in place of the entry's own fields is checked like those."""
    body = b"".join(_record(key, value) for key, value in records.items())
    extended = member("PaxHeader", tarfile.XHDTYPE, body)
    with pytest.raises(LayerError):
        unpacked(tar(extended, member("innocent", data=b"x")), shm_path / "out", LIMITS)


@pytest.mark.parametrize("target", ["../../evil", "/../evil", "a/../../evil", ""])
def test_a_link_s_target_that_is_overridden(target: str, shm_path: Path) -> None:
    """Also a hardlink's target is checked as it is in the end; an empty one restores the entry's own."""
    extended = member("PaxHeader", tarfile.XHDTYPE, _record("linkpath", target))
    layer = tar(member("own", data=b"x"), extended, hardlink("h", "own"))
    if not target:
        unpacked(layer, shm_path / "out", LIMITS)
        assert (shm_path / "out/h").samefile(shm_path / "out/own")
        return
    with pytest.raises(LayerError, match="leaves the root"):
        unpacked(layer, shm_path / "out", LIMITS)


def _record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = len(text) + len(str(len(text)))
    length = len(text) + len(str(length))
    return f"{length}".encode() + text


def test_names_that_are_not_utf8(shm_path: Path) -> None:
    """A name is bytes, and stays what it is; control characters in an error are shown, not sent."""
    name = b"caf\xe9\x1b[31m".decode("utf-8", "surrogateescape")
    unpacked(tar(member(name, data=b"x")), shm_path / "out", LIMITS)
    assert [path.name for path in (shm_path / "out").iterdir()] == [name]
    with pytest.raises(LayerError) as caught:
        unpacked(tar(member(f"../{name}")), shm_path / "other", LIMITS)
    assert "\x1b" not in caught.value.render()
