"""The cache in a directory: many writers, and what a writer that was killed leaves."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from asyncbuild.cache.directory import DirectoryCache
from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import CachedLayer, CachedResult, Hit
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import OCI_LAYER_GZIP, Descriptor
from asyncbuild.store.store import Store

DATA = bytes(range(256)) * 40_000


@pytest.fixture
def store(shm_path: Path) -> Iterator[Store]:
    """A store with one blob."""
    with Store.open(shm_path / "store") as opened:
        opened.put_blob(DATA)
        yield opened


def result() -> CachedResult:
    """A result whose layer is the blob."""
    blob = Descriptor(OCI_LAYER_GZIP, Digest.of(DATA), len(DATA))
    return CachedResult(CachedLayer(blob, DiffId.of(b"")), created=1)


def key(number: int) -> Key:
    """A key."""
    return Key(f"{number:064x}")


def test_many_put_one_layer_at_once(shm_path: Path, store: Store) -> None:
    """Results that share a layer are exported by one build at the same time: none is lost."""
    keys = [key(number) for number in range(12)]

    async def main() -> None:
        caches = [DirectoryCache(shm_path / "kept", store) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for number, name in enumerate(keys):
                nursery.start_soon(caches[number % 2].put, (name,), result())
        found = await caches[0].look_up(keys)
        assert all(isinstance(answer, Hit) for answer in found.values())

    trio.run(main)
    (blob,) = (shm_path / "kept/blobs/sha256").iterdir()
    assert blob.read_bytes() == DATA
    assert list((shm_path / "kept/tmp").iterdir()) == []


def test_what_a_killed_writer_left_is_removed(shm_path: Path, store: Store) -> None:
    """But not what another one is just writing: its lock says so."""
    place = shm_path / "kept/tmp"
    place.mkdir(parents=True)
    (place / "dead").write_bytes(b"half")
    living = os.open(place / "living", os.O_RDWR | os.O_CREAT)
    fcntl.flock(living, fcntl.LOCK_EX)
    try:
        trio.run(DirectoryCache(shm_path / "kept", store).put, (key(1),), result())
        assert os.listdir(place) == ["living"]
    finally:
        os.close(living)
