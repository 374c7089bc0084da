"""Stores and outputs on disks that are full, read-only or not there: exit code 74, and a text that helps."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from support.commands import asyncbuild, context, told

pytestmark = pytest.mark.integration

MOUNTED = 'mount -t tmpfs -o "$1" small "$2" && shift 2 && exec "$@"'


def build_upon(
    directory: Path, mount_options: str, *words: str
) -> subprocess.CompletedProcess[bytes]:
    """A build with a small file system of its own, mounted as ``small`` where nobody else sees it."""
    small = directory / "small"
    small.mkdir()
    before = ("unshare", "--mount", "sh", "-c", MOUNTED, "sh", mount_options, str(small))
    return asyncbuild(
        "build", "--progress", "plain", *words, "context", cwd=directory, before=before
    )


def noise(directory: Path, megabytes: int) -> None:
    """A file in the context that does not compress."""
    (directory / "context/noise").write_bytes(random.Random(1).randbytes(megabytes << 20))


FULL = {
    "when the base is pulled": ("size=600k", "FROM {base}\nRUN true\n"),
    "when the base is unpacked": ("size=2m", "FROM {base}\nRUN true\n"),
    "when a layer is packed": ("size=5m", "FROM scratch\nCOPY noise /\n"),
    "when a COPY is written for a RUN": ("size=6m", "FROM {base}\nCOPY noise /\nRUN true\n"),
    "without room for a directory": ("size=64k,nr_inodes=20", "FROM {base}\nRUN true\n"),
}


@pytest.mark.parametrize(("options", "dockerfile"), FULL.values(), ids=FULL)
def test_full_disk(options: str, dockerfile: str, shm_path: Path, busybox_base: str) -> None:
    """Wherever in a build the store's disk becomes full, the message says so and what to do."""
    context(shm_path, dockerfile.format(base=busybox_base))
    noise(shm_path, 6)
    done = build_upon(shm_path, options, "--store", "small/store")
    text = done.stderr.decode()
    assert done.returncode == 74, told(done)
    assert " is full" in text, told(done)
    assert "--store DIR" in text, told(done)
    assert "Traceback" not in text, told(done)
    # Where a layer is packed while the base is unpacked, either may be the one that finds no room.
    assert "COPY" in dockerfile or "asyncbuild: context/Dockerfile:1:1: " in text, told(done)
    assert done.stdout == b""


def test_no_room_for_the_root_of_a_chroot(shm_path: Path, busybox_base: str) -> None:
    """The base is unpacked, and its copy does not fit."""
    context(shm_path, f"FROM {busybox_base}\nRUN true\n")
    words = ("--store", "small/store", "--isolation", "chroot")
    done = build_upon(shm_path, "size=4200k", *words)
    assert done.returncode == 74, told(done)
    assert b"Dockerfile:2:1: " in done.stderr, told(done)
    assert b" is full" in done.stderr, told(done)


def test_command_that_fills_the_disk(shm_path: Path, busybox_base: str) -> None:
    """It fails by itself, with its own words and code."""
    context(shm_path, f"FROM {busybox_base}\nRUN dd if=/dev/zero of=/x bs=1M count=20\n")
    done = build_upon(shm_path, "size=12m", "--store", "small/store")
    assert done.returncode == 1, told(done)
    assert b"No space left on device" in done.stderr
    assert b"RUN failed with exit code 1" in done.stderr


def test_read_only_store(shm_path: Path) -> None:
    """Told at once, before anything is fetched."""
    context(shm_path, "FROM registry.invalid/base\nRUN true\n")
    done = build_upon(shm_path, "ro", "--store", "small/store")
    assert done.returncode == 74, told(done)
    assert b"is on a read-only file system" in done.stderr
    assert b"--store DIR" in done.stderr
    assert b"registry.invalid: no such host" not in done.stderr


FILLED = """
mount -t tmpfs -o size=4k,nr_inodes=9 small /tmp
dd if=/dev/zero of=/tmp/full bs=4096 count=1 2> /dev/null
! dd if=/dev/zero of=/tmp/more bs=4096 count=1 2> /dev/null && exec "$@"
"""


def test_full_tmp(shm_path: Path, busybox_base: str) -> None:
    """A build needs no room in /tmp."""
    context(shm_path, f"FROM {busybox_base}\nRUN echo made > /made\nCOPY Dockerfile /\n")
    before = ("unshare", "--mount", "sh", "-c", FILLED, "sh")
    done = asyncbuild("build", "--store", "store", "context", cwd=shm_path, before=before)
    assert done.returncode == 0, told(done)


def test_store_that_is_something_else(shm_path: Path) -> None:
    """A directory with other things in it is left alone."""
    path = context(shm_path, "FROM scratch\nLABEL a=b\n", {"precious": "mine"})
    done = asyncbuild("build", "--store", path, path)
    assert done.returncode == 74, told(done)
    assert b"is not empty and is not a store" in done.stderr
    assert sorted(item.name for item in path.iterdir()) == ["Dockerfile", "precious"]


def test_store_below_a_file(shm_path: Path) -> None:
    """A path that cannot be a directory."""
    path = context(shm_path, "FROM scratch\nLABEL a=b\n", {"file": "x"})
    done = asyncbuild("build", "--store", path / "file/store", path)
    assert done.returncode == 74, told(done)
    assert b"Not a directory" in done.stderr


def test_output_on_a_full_disk(shm_path: Path) -> None:
    """The archive that does not fit leaves nothing behind; the build itself was good."""
    context(shm_path, "FROM scratch\nCOPY noise /\n")
    noise(shm_path, 3)
    done = build_upon(shm_path, "size=2m", "--store", "store", "-o", "type=oci,dest=small/out.tar")
    assert done.returncode == 74, told(done)
    assert b"cannot write dest=small/out.tar: No space left on device" in done.stderr
    again = asyncbuild(
        "build", "--store", "store", "-o", "type=oci,dest=out.tar", "context", cwd=shm_path
    )
    assert again.returncode == 0, told(again)
    assert b"(cached)" in again.stderr
