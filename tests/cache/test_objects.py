"""A cache of named objects: many writers, what is asked for when, what fails, what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from asyncbuild.cache.keys import Key
from asyncbuild.cache.objects import ObjectCache, ObjectNames, ObjectsFailed
from asyncbuild.cache.results import Absence, CachedLayer, CachedResult, Hit
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import OCI_LAYER_GZIP, Descriptor
from asyncbuild.store.store import Store
from support.objects import MemoryObjects

DATA = bytes(range(256)) * 40
BLOB = f"blobs/sha256/{Digest.of(DATA).hex}"


@pytest.fixture
def store(shm_path: Path) -> Iterator[Store]:
    """A store with one blob."""
    with Store.open(shm_path / "store") as opened:
        opened.put_blob(DATA)
        yield opened


def result(written: int = 5) -> CachedResult:
    """A result whose layer is the blob."""
    blob = Descriptor(OCI_LAYER_GZIP, Digest.of(DATA), len(DATA))
    return CachedResult(CachedLayer(blob, DiffId.of(b"")), created=1, written=written)


def key(number: int) -> Key:
    """A key."""
    return Key(f"{number:064x}")


def test_many_put_one_layer_at_once(store: Store) -> None:
    """No entry of two builds at once is lost, and one build sends a layer once."""
    objects = MemoryObjects()
    keys = [key(number) for number in range(12)]

    async def main() -> None:
        caches = [ObjectCache(objects, ObjectNames(), store) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for number, name in enumerate(keys):
                nursery.start_soon(caches[number % 2].put, (name,), result())
        found = await ObjectCache(objects, ObjectNames(), store).look_up([*keys, key(99)])
        assert {name: isinstance(answer, Hit) for name, answer in found.items()} == {
            **dict.fromkeys(keys, True),
            key(99): False,
        }

    trio.run(main)
    assert objects.held[BLOB] == DATA
    assert objects.asked.count(f"put {BLOB}") <= 2


@pytest.mark.parametrize("distrusted", [False, True])
def test_what_is_there_is_not_sent_again(store: Store, *, distrusted: bool) -> None:
    """Neither an entry as young, nor a layer; unless the layer turned out to be damaged."""
    objects = MemoryObjects()
    bad = frozenset([str(Digest.of(DATA))] if distrusted else [])

    async def main() -> None:
        await ObjectCache(objects, ObjectNames(), store).put((key(1),), result())
        objects.held[BLOB] = b"damaged"
        cache = ObjectCache(objects, ObjectNames(), store, bad)
        await cache.look_up([key(1)])
        objects.asked.clear()
        await cache.put((key(1),), result())
        assert bool(objects.asked) is distrusted
        await cache.put((key(1),), result(6))

    trio.run(main)
    assert (objects.held[BLOB] == DATA) is distrusted
    entry = CachedResult.decode(objects.held[f"results/{key(1).hex}.json"])
    assert entry.written == 6


def test_all_keys_are_asked_for_at_once(store: Store) -> None:
    """The first answer comes only when the last question has."""
    keys = [key(number) for number in range(20)]

    class Gated(MemoryObjects):
        async def get(self, name: str) -> bytes | None:
            self.asked.append(name)
            while len(self.asked) < len(keys):
                await trio.lowlevel.checkpoint()
            return None

    found = trio.run(ObjectCache(Gated(), ObjectNames(), store).look_up, keys)
    assert set(found.values()) == {Absence.MISS}


def test_names_are_kept_apart(store: Store) -> None:
    """Entries are written below each beginning of names, and read below the first."""
    objects = MemoryObjects()
    names = ObjectNames(("m/a/", "m/b/"), "layers/", "m/l/")

    async def main() -> None:
        await ObjectCache(objects, names, store).put((key(1),), result())
        for first, hit in (("m/a/", True), ("m/b/", True), ("m/c/", False)):
            cache = ObjectCache(objects, replace(names, entries=(first,)), store)
            (found,) = (await cache.look_up([key(1)])).values()
            assert isinstance(found, Hit) is hit

    trio.run(main)
    assert f"layers/sha256/{Digest.of(DATA).hex}" in objects.held


def test_damage_and_faults_are_no_hits(store: Store) -> None:
    """An entry that is not as it was written, and one that cannot be had, and why."""
    objects = MemoryObjects()

    async def main() -> None:
        await ObjectCache(objects, ObjectNames(), store).put((key(1), key(2)), result())
        name = f"results/{key(1).hex}.json"
        objects.held[name] = objects.held[name].replace(b'"created": 1', b'"created": 2')
        cache = ObjectCache(objects, ObjectNames(), store)
        found = await cache.look_up([key(1), key(2)])
        assert found[key(1)] is Absence.UNAVAILABLE
        assert isinstance(found[key(2)], Hit)
        objects.fails = ("results/",)
        assert set((await cache.look_up([key(2)])).values()) == {Absence.UNAVAILABLE}
        assert cache.trouble == "memory: forgotten"
        objects.fails = ("put",)
        with pytest.raises(ObjectsFailed):
            await cache.put((key(3),), result())
        assert await cache.listing(DiffId.of(b"")) is None

    trio.run(main)


def test_who_does_not_answer_is_not_asked_again(store: Store) -> None:
    """One wave waits for 20 seconds, the next for none; what came meanwhile counts."""
    objects = MemoryObjects(hangs=(f"results/{key(1).hex}", "listings"))
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def main() -> None:
        cache = ObjectCache(objects, ObjectNames(), store)
        await cache.put((key(2),), result())
        found = await cache.look_up([key(1), key(2)])
        assert found[key(1)] is Absence.UNAVAILABLE
        assert isinstance(found[key(2)], Hit)
        assert trio.current_time() == pytest.approx(start + 20)
        objects.asked.clear()
        assert set((await cache.look_up([key(2)])).values()) == {Absence.UNAVAILABLE}
        assert await cache.listing(DiffId.of(b"")) is None
        with pytest.raises(ObjectsFailed, match="20 s"):
            await cache.put((key(3),), result())
        assert objects.asked == []
        assert "20 s" in cache.trouble

    start = clock.current_time()
    trio.run(main, clock=clock)
