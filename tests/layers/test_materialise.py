"""Change sets as directories: content, attributes, markers, and sources that changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings

from asyncbuild.errors import InputError, StoreError
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, Kind
from asyncbuild.layers.materialise import materialise
from support.layers import (
    change_sets,
    facts,
    file,
    opaque_directories,
    pack_bytes,
    unpack_bytes,
    whiteouts,
)
from support.scratch import scratch


def made(changes: ChangeSet, root: Path) -> dict[str, bytes]:
    """Materialise into the new directory ``root``; the files' content by path."""
    root.mkdir()
    materialise(changes, str(root))
    return {path: fact.content for path, fact in facts(root).items()}


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_000])
def test_files_are_copied_whole(size: int, shm_path: Path) -> None:
    """Small ones through memory, large ones in the kernel."""
    data = os.urandom(size)
    (shm_path / "source").write_bytes(data)
    entry = Entry(
        "f", Kind.FILE, 0o4711, 3, 4, 5_000_000_007, size, source=FileSource(f"{shm_path}/source")
    )
    assert made(ChangeSet.of([entry]), shm_path / "out") == {"f": data}
    found = facts(shm_path / "out")["f"]
    assert (found.mode, found.uid, found.gid, found.mtime_ns) == (0o4711, 3, 4, 5_000_000_007)


def test_a_file_from_another_file_system(tmp_path: Path, shm_path: Path) -> None:
    """copy_file_range may refuse; the copy is made all the same."""
    data = os.urandom(200_000)
    (tmp_path / "source").write_bytes(data)
    entry = Entry("f", Kind.FILE, size=len(data), source=FileSource(str(tmp_path / "source")))
    assert made(ChangeSet.of([entry]), shm_path / "out") == {"f": data}


def test_deletions_and_opaque_directories(shm_path: Path) -> None:
    """Whiteout devices and the opaque attribute; the root's entry is left out."""
    changes = ChangeSet.of(
        [Entry("", Kind.DIRECTORY, 0o700), file("d/f", b"x"), Entry("e", Kind.DIRECTORY, 0o755)],
        ["a/gone", "e"],
        ["d"],
    )
    made(changes, shm_path / "out")
    assert whiteouts(shm_path / "out") == {"a/gone"}
    assert opaque_directories(shm_path / "out") == {"d", "e"}


@settings(max_examples=60)
@given(change_sets())
def test_it_is_what_unpacking_the_packed_layer_gives(changes: ChangeSet) -> None:
    """Two ways, one result: every kind, attribute and link."""
    with scratch() as place:
        (place / "made").mkdir()
        found = materialise(changes, str(place / "made"))
        unpacked = unpack_bytes(pack_bytes(changes)[0], place / "unpacked")
        assert facts(place / "made") == facts(place / "unpacked")
        assert found == unpacked.facts


@pytest.mark.parametrize("actual", [0, 99, 101, 300_000])
@pytest.mark.parametrize("expected", [100, 200_000])
def test_a_source_that_changed(actual: int, expected: int, shm_path: Path) -> None:
    """Neither a shorter nor a longer file is taken for what was planned."""
    (shm_path / "source").write_bytes(bytes(actual))
    entry = Entry("f", Kind.FILE, size=expected, source=FileSource(f"{shm_path}/source"))
    with pytest.raises(InputError, match="changed while"):
        made(ChangeSet.of([entry]), shm_path / "out")


def test_a_source_that_is_missing(shm_path: Path) -> None:
    """The file's name is in the error."""
    entry = Entry("f", Kind.FILE, size=1, source=FileSource(f"{shm_path}/missing"))
    with pytest.raises(InputError, match="missing"):
        made(ChangeSet.of([entry]), shm_path / "out")


def test_names_that_contradict_each_other(shm_path: Path) -> None:
    """A file below a file is the change set's fault."""
    with pytest.raises(InputError, match="cannot stand together"):
        made(ChangeSet.of([file("f"), file("f/g")]), shm_path / "out")


def test_a_destination_that_is_missing(shm_path: Path) -> None:
    """The store's fault."""
    with pytest.raises(StoreError, match="nowhere"):
        materialise(ChangeSet(), str(shm_path / "nowhere"))


@pytest.mark.parametrize("pieces", [(), (0,), (5 << 20,), (1 << 20, 3 << 20)])
def test_holes_stay_holes(shm_path: Path, pieces: tuple[int, ...]) -> None:
    """A file that is mostly holes takes no more room than before, and has the same bytes."""
    source, out = shm_path / "sparse", shm_path / "out"
    with source.open("xb") as file:
        file.truncate((5 << 20) + 10)
        for at in pieces:
            file.seek(at)
            file.write(b"x" * 10)
    out.mkdir()
    entry = Entry("f", Kind.FILE, size=(5 << 20) + 10, source=FileSource(str(source)))
    materialise(ChangeSet.of([entry]), str(out))
    assert (out / "f").read_bytes() == source.read_bytes()
    assert (out / "f").stat().st_blocks <= source.stat().st_blocks
