"""The deterministic tar."""

import os
import subprocess
import tarfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.output.archive import Archive
from asyncbuild.output.files import appearing, never_cancelled


def test_gnu_tar_lists_it(shm_path: Path) -> None:
    """GNU tar sees owners 0, the epoch as time, and our modes."""
    (shm_path / "blob").write_bytes(b"x" * 513)
    with appearing(shm_path / "a.tar") as target:
        archive = Archive(target, never_cancelled)
        archive.add_directory("blobs/")
        archive.add_bytes("empty", b"")
        archive.add_blob("blobs/one", shm_path / "blob", 513)
        archive.finish()
    done = subprocess.run(
        ["tar", "--numeric-owner", "--utc", "-tvf", shm_path / "a.tar"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["drwxr-xr-x", "0/0", "0", "1970-01-01", "00:00", "blobs/"],
        ["-rw-r--r--", "0/0", "0", "1970-01-01", "00:00", "empty"],
        ["-rw-r--r--", "0/0", "513", "1970-01-01", "00:00", "blobs/one"],
    ]


@given(st.lists(st.binary(max_size=1100), max_size=5))
def test_read_back(files: list[bytes]) -> None:
    """Every size is padded right: what is added is read back."""
    target = os.memfd_create("archive")
    try:
        archive = Archive(target, never_cancelled)
        for number, data in enumerate(files):
            archive.add_bytes(f"file-{number}", data)
        archive.finish()
        os.lseek(target, 0, os.SEEK_SET)
        with os.fdopen(os.dup(target), "rb") as stream, tarfile.open(fileobj=stream) as tar:
            found = [tar.extractfile(member) for member in tar.getmembers()]
            assert [item.read() for item in found if item] == files
    finally:
        os.close(target)


def test_sizes_beyond_8_gib(shm_path: Path) -> None:
    """A size that the old header cannot hold is written (a sparse file stands in)."""
    size = (8 << 30) + 1
    with open(shm_path / "blob", "wb") as stream:
        stream.truncate(size)
    header = tarfile.TarInfo("blob")
    header.size = size
    assert len(header.tobuf(tarfile.PAX_FORMAT)) == 3 * 512
