"""Files appear whole or not at all, and the disk's errors become ours."""

import errno
import os
import threading
from pathlib import Path

import pytest

from asyncbuild.errors import AsyncbuildError, InputError, StoreError
from asyncbuild.output.files import (
    appearing,
    copy_bytes,
    disk_errors,
    never_cancelled,
    open_blob,
    write_all,
)


class Cancelled(BaseException):
    """What a cancelled thread raises."""


def test_appears_by_rename(shm_path: Path) -> None:
    """The old bytes stand until the new ones are complete."""
    place = shm_path / "file"
    place.write_bytes(b"old")
    with appearing(place) as target:
        write_all(target, b"new bytes")
        assert place.read_bytes() == b"old"
    assert place.read_bytes() == b"new bytes"
    assert os.listdir(shm_path) == ["file"]


def test_nothing_appears_after_an_error(shm_path: Path) -> None:
    """An error, even a cancellation, leaves the old file and no temporary one."""

    def write_half() -> None:
        with appearing(shm_path / "file") as target:
            write_all(target, b"half")
            raise Cancelled

    with pytest.raises(Cancelled):
        write_half()
    assert os.listdir(shm_path) == []


def test_mode_follows_the_umask(shm_path: Path) -> None:
    """A new file gets the mode that the user's umask leaves."""
    old = os.umask(0o027)
    try:
        with appearing(shm_path / "file"):
            pass
    finally:
        os.umask(old)
    assert (shm_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed(shm_path: Path) -> None:
    """The file that a symbolic link names is replaced, not the link."""
    (shm_path / "real").write_bytes(b"old")
    (shm_path / "link").symlink_to("real")
    with appearing(shm_path / "link") as target:
        write_all(target, b"new")
    assert (shm_path / "link").is_symlink()
    assert (shm_path / "real").read_bytes() == b"new"


def test_a_device_is_written_directly() -> None:
    """/dev/null stays a device."""
    with appearing(Path("/dev/null")) as target:
        write_all(target, b"gone")
    assert Path("/dev/null").is_char_device()


def test_a_pipe_gets_the_bytes(shm_path: Path) -> None:
    """Where the kernel cannot copy (a pipe), bytes are read and written."""
    data = os.urandom(3 << 20)
    (shm_path / "blob").write_bytes(data)
    reader, writer = os.pipe()
    received: list[bytes] = []

    def receive() -> None:
        with os.fdopen(reader, "rb") as stream:
            received.append(stream.read())

    thread = threading.Thread(target=receive)
    thread.start()
    with open_blob(shm_path / "blob", len(data)) as source:
        copy_bytes(source, writer, len(data), never_cancelled)
    os.close(writer)
    thread.join()
    assert received == [data]


def test_a_blob_of_another_size(shm_path: Path) -> None:
    """A blob that is not as long as its manifest says is not written anywhere."""
    (shm_path / "blob").write_bytes(b"abc")
    with pytest.raises(StoreError, match="3 bytes and its manifest says 4"):
        with open_blob(shm_path / "blob", 4):
            pass
    with pytest.raises(StoreError, match="cannot read blob gone"):
        with open_blob(shm_path / "gone", 4):
            pass


def test_a_blob_that_shrinks(shm_path: Path) -> None:
    """A blob that ends before its size is an error, not an endless loop."""
    (shm_path / "blob").write_bytes(b"abc")
    with open_blob(shm_path / "blob", 3) as source, appearing(shm_path / "to") as target:
        with pytest.raises(StoreError, match="2 bytes too early"):
            copy_bytes(source, target, 5, never_cancelled)


def test_cancelled_between_chunks(shm_path: Path) -> None:
    """The check is called before each chunk and ends the copy."""

    def check() -> None:
        raise Cancelled

    (shm_path / "blob").write_bytes(b"abc")
    with open_blob(shm_path / "blob", 3) as source, pytest.raises(Cancelled):
        copy_bytes(source, 1, 3, check)


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, StoreError, 74),
        (errno.EDQUOT, StoreError, 74),
        (errno.EROFS, StoreError, 74),
        (errno.EACCES, StoreError, 74),
        (errno.EPIPE, StoreError, 74),
        (errno.EIO, StoreError, 74),
        (errno.ENOENT, InputError, 66),
        (errno.ENOTDIR, InputError, 66),
    ],
)
def test_errors_of_the_disk(number: int, kind: type[AsyncbuildError], code: int) -> None:
    """Each says what could not be written, why, and what to do."""
    with pytest.raises(kind, match=r"cannot write dest=x: .+") as caught, disk_errors("dest=x"):
        raise OSError(number, "said by the test")
    assert caught.value.exit_code == code
    assert caught.value.hint


def test_a_full_disk(shm_path: Path) -> None:
    """/dev/full answers as a full disk does, at the first write."""
    with pytest.raises(StoreError, match="No space left"), disk_errors("dest=/dev/full"):
        with appearing(Path("/dev/full")) as target:
            write_all(target, b"x")


def test_what_a_killed_writer_left_is_removed(shm_path: Path) -> None:
    """By the next to write the same file; what others are writing, or left elsewhere, stays."""
    (shm_path / ".file.0123.partial").write_bytes(b"half")
    (shm_path / ".other.0123.partial").write_bytes(b"half")
    with appearing(shm_path / "file") as one, appearing(shm_path / "file") as other:
        write_all(one, b"one")
        write_all(other, b"other")
        partials = [name for name in os.listdir(shm_path) if name.startswith(".file.")]
        assert len(partials) == 2
        assert ".file.0123.partial" not in partials
    assert (shm_path / "file").read_bytes() == b"one"
    assert sorted(os.listdir(shm_path)) == [".other.0123.partial", "file"]
