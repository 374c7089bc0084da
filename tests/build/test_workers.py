"""The pool of layer workers: results, errors, reuse, cancellation, and children that die."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import trio

from asyncbuild.build.workers import SMALL_BYTES, SMALL_ENTRIES, WorkerPool
from asyncbuild.errors import (
    AsyncbuildError,
    InputError,
    IntegrityError,
    LayerError,
    RegistryUnavailable,
    StoreError,
)
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import OCI_LAYER_GZIP, Descriptor
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, Kind
from asyncbuild.layers.compression import GZIP, UNCOMPRESSED, ZSTD
from asyncbuild.layers.trim import Trim
from support.layers import facts, file, member, pack_bytes, tar

LAYER = tar(member("f", data=random.Random(1).randbytes(700_000)), member("g", data=b"x" * 5000))
BLOB = gzip.compress(LAYER)


def described(blob: bytes) -> Descriptor:
    """A blob's descriptor."""
    return Descriptor(OCI_LAYER_GZIP, Digest.of(blob), len(blob))


async def stream(blob: bytes, piece: int = 100_000) -> AsyncIterator[bytes]:
    """A blob in pieces."""
    for start in range(0, len(blob), piece):
        yield blob[start : start + piece]


def fresh(path: Path) -> Path:
    """A new directory."""
    path.mkdir()
    return path


_others: set[int] = set()


@pytest.fixture(autouse=True)
def _children_of_other_tests() -> None:
    """A registry that serves the whole session is a child of this process too."""
    _others.clear()
    _others.update(children())


def children() -> list[int]:
    """The processes that this one has started during a test and not yet waited for."""
    found: list[int] = []
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):  # a thread that has just ended
            found += map(int, Path(f"/proc/self/task/{task}/children").read_text().split())
    return [pid for pid in found if pid not in _others]


def test_every_job_and_no_child_afterwards(shm_path: Path) -> None:
    """Unpack with a copy of the blob, pack, pack an upper directory, materialise: all in one child."""

    async def main() -> None:
        async with WorkerPool(1) as pool:
            unpacked = await pool.unpack(
                described(BLOB),
                DiffId.of(LAYER),
                fresh(shm_path / "a"),
                stream(BLOB),
                tee=shm_path / "blob",
            )
            (pid,) = children()
            assert (unpacked.diff_id, unpacked.facts.entries) == (DiffId.of(LAYER), 2)
            changes = ChangeSet.of([file("f", b"x" * 3000), file(os.fsdecode(b"\xff"))], ["gone"])
            packed = await pool.pack(changes, shm_path / "b", GZIP)
            assert packed == pack_bytes(changes, GZIP)[1]
            assert (shm_path / "b").read_bytes() == pack_bytes(changes, GZIP)[0]
            (shm_path / "a" / "skip").touch()
            upper = await pool.pack_upper(
                shm_path / "a", [], shm_path / "c", ZSTD, trim=Trim.of(["skip"], None)
            )
            assert upper.entries == 2
            found = await pool.materialise(changes, fresh(shm_path / "d"))
            assert found.entries == 3
            assert children() == [pid]
        assert children() == []

    trio.run(main)
    assert (shm_path / "blob").read_bytes() == BLOB
    assert set(facts(shm_path / "d")) == {"f", os.fsdecode(b"\xff"), "gone"}


@pytest.mark.parametrize("damage", [b"", b"?"], ids=["whole", "damaged"])
def test_a_file_that_is_here_is_read_by_the_child(shm_path: Path, damage: bytes) -> None:
    """Its descriptor goes to the child, is verified there like what comes in pieces, and is closed here."""
    blob = shm_path / "blob"
    blob.write_bytes(BLOB[: len(BLOB) - len(damage)] + damage)

    async def main() -> None:
        async with WorkerPool(1) as pool:
            descriptor = os.open(blob, os.O_RDONLY)
            blob.unlink()
            refused = pytest.raises(IntegrityError) if damage else nullcontext()
            with refused:
                unpacked = await pool.unpack(
                    described(BLOB), None, fresh(shm_path / "a"), descriptor
                )
                assert unpacked.diff_id == DiffId.of(LAYER)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
            await pool.unpack(described(BLOB), None, fresh(shm_path / "b"), stream(BLOB))
            assert len(children()) == 1

    trio.run(main)


def test_as_many_children_as_jobs_at_once(shm_path: Path) -> None:
    """Never more than the pool's size, and kept for the next jobs."""

    async def main() -> None:
        async with WorkerPool(2) as pool:
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    changes = ChangeSet.of([file("f", b"%d" % number * (SMALL_BYTES + 1))])
                    nursery.start_soon(pool.pack, changes, shm_path / str(number), GZIP)
            assert len(children()) == 2

    trio.run(main)
    assert len(os.listdir(shm_path)) == 6


@pytest.mark.parametrize(
    ("entries", "size", "begun"),
    [
        (SMALL_ENTRIES, 10, 0),
        (SMALL_ENTRIES + 1, 10, 1),
        (1, SMALL_BYTES, 0),
        (1, SMALL_BYTES + 1, 1),
    ],
)
def test_small_changes_need_no_child(shm_path: Path, entries: int, size: int, begun: int) -> None:
    """Few files of few bytes are packed here, and a child makes the same layer of them."""
    changes = ChangeSet.of([file(f"f{number}", b"x" * size) for number in range(entries)])

    async def main() -> None:
        async with WorkerPool(1) as pool:
            packed = await pool.pack(changes, shm_path / "blob", GZIP)
            assert len(children()) == begun
            assert packed == pack_bytes(changes, GZIP)[1]
            with pytest.raises(StoreError, match="blob"):
                await pool.pack(changes, shm_path / "blob", GZIP)

    trio.run(main)
    assert (shm_path / "blob").read_bytes() == pack_bytes(changes, GZIP)[0]


def test_progress_while_packing(shm_path: Path) -> None:
    """The file can be read as far as was said."""
    (shm_path / "source").write_bytes(os.urandom(5_000_000))
    entry = Entry("f", Kind.FILE, size=5_000_000, source=FileSource(f"{shm_path}/source"))
    seen: list[int] = []

    def progress(size: int) -> None:
        assert (shm_path / "blob").stat().st_size >= size
        seen.append(size)

    async def main() -> None:
        async with WorkerPool(1) as pool:
            await pool.pack(ChangeSet.of([entry]), shm_path / "blob", UNCOMPRESSED, progress)

    trio.run(main)
    assert len(seen) >= 3
    assert seen == sorted(seen)


def test_errors_keep_their_class_and_the_child(shm_path: Path) -> None:
    """What is wrong with a layer or an input is raised here as it was there; the child goes on."""
    bad = tar(member("../f"))
    missing = Entry("f", Kind.FILE, size=1, source=FileSource(f"{shm_path}/missing"))

    async def main() -> None:
        async with WorkerPool(1) as pool:
            with pytest.raises(LayerError, match="leaves the root") as layer:
                await pool.unpack(described(bad), None, fresh(shm_path / "a"), stream(bad))
            assert layer.value.exit_code == 65
            (pid,) = children()
            with pytest.raises(IntegrityError, match=Digest.of(BLOB).hex):
                await pool.unpack(
                    described(BLOB), None, fresh(shm_path / "b"), stream(BLOB[:-1] + b"?")
                )
            with pytest.raises(IntegrityError, match="more than"):
                await pool.unpack(
                    described(BLOB), None, fresh(shm_path / "c"), stream(BLOB + bytes(5_000_000))
                )
            with pytest.raises(InputError, match="missing"):
                await pool.pack(ChangeSet.of([missing]), shm_path / "d", GZIP)
            with pytest.raises(InputError, match="nowhere"):
                await pool.pack_upper(shm_path / "nowhere", [], shm_path / "e", GZIP)
            await pool.pack(ChangeSet(), shm_path / "f", GZIP)
            assert children() == [pid]

    trio.run(main)


def test_an_error_of_the_source_is_raised_as_it_is(shm_path: Path) -> None:
    """No group around it; the child, in the middle of its job, is gone."""

    async def failing() -> AsyncIterator[bytes]:
        yield BLOB[:1000]
        raise RegistryUnavailable("the link is down")

    async def main() -> None:
        async with WorkerPool(1) as pool:
            with pytest.raises(RegistryUnavailable, match="down"):
                await pool.unpack(described(BLOB), None, fresh(shm_path / "a"), failing())
            assert children() == []
            await pool.unpack(described(BLOB), None, fresh(shm_path / "b"), stream(BLOB))

    trio.run(main)


def test_cancelling_ends_the_child(shm_path: Path) -> None:
    """In the middle of an unpack, and of a pack that has said how far it is."""

    async def main() -> None:
        async with WorkerPool(1) as pool:
            with trio.CancelScope() as unpacking:

                async def stuck() -> AsyncIterator[bytes]:
                    yield BLOB[:1000]
                    unpacking.cancel()
                    await trio.sleep_forever()

                await pool.unpack(described(BLOB), None, fresh(shm_path / "a"), stuck())
            assert unpacking.cancelled_caught
            assert children() == []
            (shm_path / "source").write_bytes(os.urandom(30_000_000))
            entry = Entry("f", Kind.FILE, size=30_000_000, source=FileSource(f"{shm_path}/source"))
            with trio.CancelScope() as packing:
                await pool.pack(
                    ChangeSet.of([entry]), shm_path / "blob", GZIP, lambda _: packing.cancel()
                )
            assert packing.cancelled_caught
            assert children() == []
            size = (shm_path / "blob").stat().st_size
            assert size < 30_000_000
            await pool.pack(ChangeSet(), shm_path / "c", GZIP)

    trio.run(main)


async def _dead(pid: int) -> None:
    watched = os.pidfd_open(pid)
    await trio.lowlevel.wait_readable(watched)
    os.close(watched)


@pytest.mark.parametrize("busy", [True, False])
def test_a_child_that_is_killed(shm_path: Path, *, busy: bool) -> None:
    """At work: an error that names the signal. Idle: the next job gets another child."""

    async def killing() -> AsyncIterator[bytes]:
        yield BLOB[:1000]
        os.kill(children()[0], signal.SIGKILL)
        await trio.sleep_forever()

    async def main() -> None:
        async with WorkerPool(1) as pool:
            if busy:
                with pytest.raises(AsyncbuildError, match="SIGKILL") as error:
                    await pool.unpack(described(BLOB), None, fresh(shm_path / "a"), killing())
                assert "memory" in (error.value.hint or "")
            else:
                await pool.pack_upper(fresh(shm_path / "u"), [], shm_path / "a", GZIP)
                os.kill(children()[0], signal.SIGKILL)
                await _dead(children()[0])
            await pool.pack_upper(fresh(shm_path / "v"), [], shm_path / "b", GZIP)
            assert len(children()) == 1

    trio.run(main)


_ORPHANS = """
import os, sys, trio
from pathlib import Path
from asyncbuild.build.workers import WorkerPool
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.compression import GZIP
place = Path(sys.argv[1])
async def stuck():
    yield b"x"
    pids = [c._process.pid for c in started]
    print(*pids, flush=True)
    await trio.sleep_forever()
started = []
from asyncbuild.build import workers
start = workers._Child.start
async def recorded():
    child = await start()
    started.append(child)
    return child
workers._Child.start = recorded
async def main():
    async with WorkerPool(2) as pool:
        (place / "out").mkdir()
        await pool.pack_upper(place / "out", [], place / "blob", GZIP)
        pool._idle.pop()
        await pool.unpack(Descriptor("x", Digest.of(b"x"), 10), None, place / "out", stuck())
trio.run(main)
"""


def test_children_end_with_a_build_that_is_killed(shm_path: Path) -> None:
    """Idle and at work alike: nothing is left that holds the store or writes to it."""
    with subprocess.Popen(
        [sys.executable, "-c", _ORPHANS, str(shm_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "src"},
    ) as build:
        assert build.stdout is not None
        pids = [int(pid) for pid in build.stdout.readline().split()]
        assert len(pids) == 2
        watched = [os.pidfd_open(pid) for pid in pids]
        build.kill()
        build.wait()

    async def main() -> None:
        with trio.fail_after(20):
            for descriptor in watched:
                await trio.lowlevel.wait_readable(descriptor)

    trio.run(main)
    for descriptor in watched:
        os.close(descriptor)
