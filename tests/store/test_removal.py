"""Removing what a RUN may leave: all of it, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from asyncbuild.store.removal import remove_tree
from support.overlay import as_nobody, mount_bind, unmount, with_private_mounts


def test_every_kind_goes_and_links_are_not_followed(shm_path: Path) -> None:
    """Files, links, devices, fifos and sockets are removed; what a link names stays."""
    outside = shm_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    tree = shm_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/file").write_text("x")
    (tree / "a/link").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "whiteout", 0o20000, 0)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
    assert remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").exists()


def test_what_is_not_there_is_removed(shm_path: Path) -> None:
    """A missing tree, or one whose parent is missing, is no failure; a file is a small tree."""
    (shm_path / "file").write_text("")
    assert remove_tree(shm_path / "file")
    assert remove_tree(shm_path / "file")
    assert remove_tree(shm_path / "no/where")
    assert list(shm_path.iterdir()) == []


def test_very_deep_trees_go(shm_path: Path) -> None:
    """A tree deeper than a path is long, and than there are descriptors, is removed."""
    (shm_path / "tree").mkdir()
    descriptor = os.open(shm_path / "tree", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=descriptor)
        below = os.open("deeper", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert remove_tree(shm_path / "tree")
    assert list(shm_path.iterdir()) == []


def test_directories_without_permission_go(shm_path: Path) -> None:
    """Whoever owns a tree can remove it, whatever its modes are."""
    shm_path.chmod(0o777)

    def work() -> None:
        (shm_path / "tree/closed/inner").mkdir(parents=True)
        (shm_path / "tree/closed/inner/file").write_text("x")
        (shm_path / "tree/closed/inner").chmod(0)
        (shm_path / "tree/closed").chmod(0o500)
        (shm_path / "tree").chmod(0o500)
        assert remove_tree(shm_path / "tree")

    as_nobody(work)
    assert list(shm_path.iterdir()) == []


def test_immutable_files_go(shm_path: Path) -> None:
    """Chattr +i and +a do not keep a tree."""
    (shm_path / "tree/d").mkdir(parents=True)
    (shm_path / "tree/d/file").write_text("x")
    subprocess.run(["chattr", "+i", shm_path / "tree/d/file"], check=True)
    subprocess.run(["chattr", "+a", shm_path / "tree/d"], check=True)
    assert remove_tree(shm_path / "tree")
    assert list(shm_path.iterdir()) == []


def test_a_mount_point_is_left_alone(shm_path: Path) -> None:
    """What is mounted in the tree is not removed, not even from the same file system."""
    precious = shm_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (shm_path / "tree/mnt").mkdir(parents=True)
    (shm_path / "tree/other").write_text("")

    def work() -> None:
        mount_bind(precious, shm_path / "tree/mnt")
        assert not remove_tree(shm_path / "tree")
        unmount(shm_path / "tree/mnt")

    with_private_mounts(work)
    assert (precious / "file").exists()
    assert os.listdir(shm_path / "tree") == ["mnt"]


def test_a_removal_that_is_ended(shm_path: Path) -> None:
    """What ``check`` raises ends a removal between two directories; no descriptor stays open, and what is
    left keeps a name by which it is found again.
    """
    tree = shm_path / "dead-tree"
    (tree / "/".join(["d"] * 80)).mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    calls = iter(range(70))
    with pytest.raises(StopIteration):
        remove_tree(tree, lambda: next(calls))
    assert len(os.listdir("/proc/self/fd")) == before
    left = os.listdir(shm_path)
    assert left
    assert all(name.startswith("dead-tree") for name in left)
    assert all(remove_tree(shm_path / name) for name in left)
