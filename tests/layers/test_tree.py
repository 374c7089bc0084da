"""Writing a layer's directory where the kernel does not know openat2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncbuild.errors import LayerError, StoreError
from asyncbuild.layers.changeset import ChangeSet, Entry, Kind
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.rooted import open_directory
from asyncbuild.layers.tree import LayerTree
from support.layers import facts

BOTH = pytest.mark.parametrize("by_kernel", [True, False])


def write(root: Path, entries: list[Entry], *, by_kernel: bool) -> UnpackedFacts:
    """Write ``entries`` into the new directory ``root``."""
    root.mkdir()
    with LayerTree(str(root), by_kernel=by_kernel) as tree:
        for entry in entries:
            if entry.kind is Kind.FILE:
                descriptor = tree.create(entry)
                tree.seal(descriptor, entry)
                os.close(descriptor)
            else:
                tree.add(entry)
        return tree.finish()


@BOTH
def test_links_on_the_way(shm_path: Path, *, by_kernel: bool) -> None:
    """The same with and without the kernel's help, and nothing outside either way."""
    (shm_path / "sentinel").mkdir()
    entries = [
        Entry("a", Kind.SYMLINK, link=str(shm_path / "sentinel")),
        Entry("a/f", Kind.FILE),
        Entry("b", Kind.SYMLINK, link="../../c"),
        Entry("b/d/e", Kind.FILE),
        Entry("b/d", Kind.DIRECTORY, 0o700, 4),
        Entry("b/h", Kind.HARDLINK, link="b/d/e"),
    ]
    found = write(shm_path / "out", entries, by_kernel=by_kernel)
    assert os.listdir(shm_path / "sentinel") == []
    assert "c" in found.implicit_directories
    names = {path for path in facts(shm_path / "out") if path.startswith("c")}
    assert names == {"c", "c/d", "c/d/e", "c/h"}
    assert (shm_path / "out/c/d").stat().st_uid == 4


@BOTH
def test_a_directory_is_opened_only_below_the_root(shm_path: Path, *, by_kernel: bool) -> None:
    """Links and dots are refused; a file is no directory."""
    (shm_path / "root/d/e").mkdir(parents=True)
    (shm_path / "root/link").symlink_to("d")
    (shm_path / "root/file").touch()
    root = os.open(shm_path / "root", os.O_RDONLY)
    try:
        for path in ("", "d", "d/e"):
            descriptor = open_directory(root, path, by_kernel=by_kernel)
            expected = os.stat(shm_path / "root" / path)
            assert os.fstat(descriptor).st_ino == expected.st_ino
            os.close(descriptor)
        for path in ("link", "link/e", "..", "d/../..", "file", "missing", "d/missing/e"):
            with pytest.raises(OSError):
                open_directory(root, path, by_kernel=by_kernel)
    finally:
        os.close(root)


def test_no_descriptor_is_left_open(shm_path: Path) -> None:
    """Neither after many directories, nor after an error."""
    before = len(os.listdir("/proc/self/fd"))
    entries = [Entry(f"d{number}/e/f", Kind.FILE) for number in range(500)]
    write(shm_path / "many", entries, by_kernel=True)
    with pytest.raises(LayerError):
        write(shm_path / "bad", [*entries, Entry("d1/e/f/g", Kind.FIFO)], by_kernel=True)
    with pytest.raises(StoreError):
        LayerTree(str(shm_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_replaced_directory_is_forgotten(shm_path: Path) -> None:
    """Writing through a descriptor of a directory that was removed would lose the file."""
    entries = [
        Entry("d/e/one", Kind.FILE),
        Entry("d", Kind.FIFO),
        Entry("d/e", Kind.DIRECTORY, 0o755),
    ]
    with pytest.raises(LayerError):
        write(shm_path / "out", entries, by_kernel=True)
    entries[1:] = [
        Entry("d", Kind.SYMLINK, link="x"),
        Entry("d/e/two", Kind.FILE),
        Entry("d", Kind.DIRECTORY, 0o755),
        Entry("d/e/three", Kind.FILE),
    ]
    write(shm_path / "again", entries, by_kernel=True)
    found = {path for path, fact in facts(shm_path / "again").items() if not path.endswith("e")}
    assert found >= {"x/e/two"}
    assert (shm_path / "again/d/e/three").exists()
    assert not (shm_path / "again/d/e/one").exists()


def test_change_sets_are_values() -> None:
    """An empty one is false; of two entries of one path the later is kept."""
    assert not ChangeSet()
    changes = ChangeSet.of([Entry("a", Kind.FIFO), Entry("a", Kind.DIRECTORY)])
    assert [entry.kind for entry in changes.additions] == [Kind.DIRECTORY]
