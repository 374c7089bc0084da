"""Archives that a user hands in: unpacked as layers are, but nothing in them removes anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asyncbuild.errors import InputError, LayerError
from asyncbuild.layers.extract import ExtractJob, extract
from support.images import Node, directory, symlink, text
from support.sources import archive


def extracted(path: Path, data: bytes) -> Path:
    """What ``data`` unpacks to."""
    file, out = path / "archive", path / "out"
    file.write_bytes(data)
    out.mkdir()
    extract(ExtractJob(str(file), str(out)))
    return out


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz", "zst"])
def test_every_compression(shm_path: Path, compression: str) -> None:
    """Files, modes, owners, however it is compressed."""
    nodes = [directory("d", 0o711), replace(text("d/f", "inside"), uid=3, gid=4, mode=0o4755)]
    out = extracted(shm_path, archive(nodes, compression))
    status = (out / "d/f").stat()
    assert (out / "d/f").read_text() == "inside"
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (3, 4, 0o4755)


def test_whiteouts_are_names_like_others(shm_path: Path) -> None:
    """``.wh.x`` removes nothing here."""
    out = extracted(
        shm_path, archive([text("x", "x"), text(".wh.x", ""), text(".wh..wh..opq", "")])
    )
    assert sorted(path.name for path in out.iterdir()) == [".wh..wh..opq", ".wh.x", "x"]


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([text("../x", "x")], "leaves the root"),
        ([symlink("a", "a"), text("a/b", "b")], "too many symbolic links"),
        ([text("a", "a"), text("a/b", "b")], "a"),
    ],
)
def test_hostile_archives(shm_path: Path, nodes: list[Node], what: str) -> None:
    """Nothing is written outside; what cannot be is an error."""
    with pytest.raises(LayerError, match=what):
        extracted(shm_path, archive(nodes))
    assert not (shm_path / "x").exists()


def test_links_stay_inside(shm_path: Path) -> None:
    """A name below a link that leads out is inside all the same."""
    out = extracted(shm_path, archive([symlink("up", "../../.."), text("up/f", "f")]))
    assert (out / "f").read_text() == "f"
    assert not (shm_path / "f").exists()


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz", "zst"])
def test_truncation_is_seen(shm_path: Path, compression: str) -> None:
    """Half an archive is no archive."""
    data = archive([text("f", "x" * 5000)], compression)
    with pytest.raises(LayerError):
        extracted(shm_path, data[: len(data) // 2])


def test_a_checksum_at_the_end_counts(shm_path: Path) -> None:
    """A flipped bit behind the last file is found."""
    data = bytearray(archive([text("f", "x")], "gz"))
    data[-6] ^= 1
    with pytest.raises(LayerError):
        extracted(shm_path, bytes(data))


def test_a_file_that_cannot_be_read(shm_path: Path) -> None:
    """The error says which."""
    with pytest.raises(InputError, match="nowhere"):
        extract(ExtractJob(str(shm_path / "nowhere"), str(shm_path)))
