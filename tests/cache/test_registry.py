"""The cache in a registry: entries by tag, an index for all, faults that are answers."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.cache.keys import Key
from asyncbuild.cache.registry import RegistryCache
from asyncbuild.cache.results import Absence, Answer, CachedLayer, CachedResult, Hit
from asyncbuild.cache.scope_index import (
    LARGEST_CONFIG,
    TABLE,
    IndexEntry,
    ScopeIndex,
    chosen_configs,
    decode_index,
    encode_index,
)
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Index
from asyncbuild.image.reference import Reference
from asyncbuild.registry.client import RegistryClient
from asyncbuild.testing.faults import Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.double import HOST, with_client

PLACE = Reference(HOST, "team/cache", "main")
ORIGIN = Reference(HOST, "team/cache")


def key(name: object) -> Key:
    """A key made of a name."""
    return Key(hashlib.sha256(str(name).encode()).hexdigest())


def layer(name: object) -> CachedLayer:
    """A layer made of a name."""
    data = str(name).encode()
    return CachedLayer(Descriptor(OCI_LAYER_GZIP, Digest.of(data), len(data)), DiffId.of(data))


def result(*names: object, created: int = 7) -> CachedResult:
    """A result with these layers, bottom first."""
    layers = tuple(map(layer, names))
    return CachedResult(layers[-1], layers[:-1], created)


def plain(answer: Answer) -> object:
    """What an answer says, without where it comes from."""
    if isinstance(answer, Hit):
        return [item.name for item in answer.result.layers]
    return answer


def filled(double: RegistryDouble, entries: dict[Key, CachedResult]) -> None:
    """Put entries into the double, as a build does."""

    async def put(client: RegistryClient) -> None:
        cache = RegistryCache(client, PLACE)
        await cache.load()
        for name, made in entries.items():
            await cache.put((name,), made)
        await cache.finish()

    for made in entries.values():
        for item in made.layers:
            assert item.descriptor is not None
    for name in ("a", "b", "c", "d"):
        double.add_blob("team/cache", name.encode())
    with_client(double, put)


def asked(double: RegistryDouble, *keys: Key) -> dict[Key, object]:
    """The answers of a build that comes later."""

    async def ask(client: RegistryClient) -> dict[Key, object]:
        cache = RegistryCache(client, PLACE)
        await cache.load()
        found = await cache.look_up(keys)
        return {name: plain(answer) for name, answer in found.items()}

    return with_client(double, ask)


ENTRIES = {key(1): result("a"), key(2): result("a", "b"), key(3): result("a", "b", "c")}
NAMES = [layer(name).name for name in "abc"]


def test_one_request_answers_for_all() -> None:
    """With the index there, any number of keys costs one request."""
    double = RegistryDouble()
    filled(double, ENTRIES)
    before = len(double.log)
    assert asked(double, *ENTRIES) == {
        key(1): NAMES[:1],
        key(2): NAMES[:2],
        key(3): NAMES,
    }
    assert [item.method for item in double.log[before:]] == ["GET"]


def test_what_the_index_lacks_is_asked_for_by_tag() -> None:
    """Tags are the truth: an entry that an index lost is still found, and a key of nothing is a miss."""
    double = RegistryDouble()
    filled(double, ENTRIES)
    del double.tags["team/cache"]["main"]
    assert asked(double, key(2), key(9)) == {key(2): NAMES[:2], key(9): Absence.MISS}


def test_two_builds_never_lose_each_others_entries() -> None:
    """Two that load the same index and finish one after the other both stay in it."""
    double = RegistryDouble()
    filled(double, {key(0): result("d")})

    async def race(client: RegistryClient) -> None:
        one, other = RegistryCache(client, PLACE), RegistryCache(client, PLACE)
        await one.load()
        await other.load()
        await one.put((key(1),), result("a"))
        await other.put((key(2),), result("a", "b"))
        await one.finish()
        await other.finish()

    with_client(double, race)
    before = len(double.log)
    found = asked(double, key(0), key(1), key(2))
    assert set(map(str, found)) == {str(key(0)), str(key(1)), str(key(2))}
    assert Absence.MISS not in found.values()
    assert len(double.log) - before == 1


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_faults_are_answers(status: int) -> None:
    """Whatever the registry answers, a look-up gives misses or says that it is unavailable."""
    double = RegistryDouble()
    filled(double, ENTRIES)
    double.faults.add(Rule(Respond(status), "GET", "/team/cache/", times=None))
    assert asked(double, key(1))[key(1)] in (Absence.MISS, Absence.UNAVAILABLE)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"schemaVersion":2,"manifests":[1]}'])
def test_damaged_indexes_are_misses(body: bytes) -> None:
    """An index that is none does not stop a build."""
    double = RegistryDouble()
    filled(double, ENTRIES)
    double.faults.add(Rule(Respond(200, body), "GET", "/manifests/main", times=None))
    assert asked(double, key(9))[key(9)] in (Absence.MISS, Absence.UNAVAILABLE)


@given(
    st.dictionaries(
        st.integers(0, 50),
        st.tuples(
            st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6), st.integers(0, 99)
        ),
        max_size=20,
    ),
    st.lists(st.text(), max_size=3),
)
def test_indexes_round_trip(entries: dict[int, tuple[list[str], int]], configs: list[str]) -> None:
    """What is put into an index comes out of it, with the repository as the origin of its layers."""
    manifest = Descriptor(OCI_MANIFEST, Digest.of(b"entry"), 5)
    made = {
        key(number): IndexEntry(manifest, result(*names, created=created))
        for number, (names, created) in entries.items()
    }
    texts = [text.encode(errors="surrogatepass") for text in configs]
    scope = decode_index(encode_index(ScopeIndex(made, chosen_configs(texts))), PLACE)
    found = scope.entries
    assert set(scope.configs.values()) == {text for text in texts if b"\xed" not in text}
    assert all(digest == Digest.of(raw) for digest, raw in scope.configs.items())
    assert set(found) == set(made)
    for name, entry in found.items():
        assert entry.result.created == made[name].result.created
        assert entry.result.same_layers(made[name].result)
        assert all(item.origin == ORIGIN for item in entry.result.layers)


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"no zlib",
        zlib.compress(b"no JSON"),
        zlib.compress(b"[]"),
        zlib.compress(b'{"layers": []}'),
        zlib.compress(b'{"layers": [], "entries": [[]], "configs": []}'),
        zlib.compress(b'{"layers": [], "entries": [], "configs": [7]}'),
        zlib.compress(b'{"layers": [7], "entries": [], "configs": []}'),
        zlib.compress(b" " * (64 << 20) + b'{"layers": [], "entries": [], "configs": ["{}"]}'),
    ],
)
def test_tables_that_are_none(table: bytes) -> None:
    """Damaged ones, and one that would become very large, tell nothing."""
    text = base64.b64encode(table).decode()
    assert decode_index(Index.make((), annotations={TABLE: text}), PLACE) == ScopeIndex()


def test_an_index_of_forty_steps_comes_in_one_round_trip() -> None:
    """It fits into the ten segments that a connection carries at once, with the base's configuration."""
    names = [f"layer {number}" for number in range(40)]
    manifests = [Descriptor(OCI_MANIFEST, Digest.of(name.encode()), 1234) for name in names]
    made = {
        key(name): IndexEntry(manifest, result(*names[: place + 1]))
        for place, (name, manifest) in enumerate(zip(names, manifests, strict=True))
    }
    config = json.dumps({"history": [{"created_by": f"RUN step {name}"} for name in names]})
    index = encode_index(ScopeIndex(made, chosen_configs([config.encode()])))
    assert len(index.raw) < 10 * 1400


def test_configurations_that_an_index_keeps() -> None:
    """Small texts, the first that are named; each once."""
    large, binary = b"x" * (LARGEST_CONFIG + 1), b"\xff"
    many = [f"{number}".encode() for number in range(99)]
    kept = list(chosen_configs([b"one", large, binary, b"one", *many]).values())
    assert kept[:3] == [b"one", b"0", b"1"]
    assert len(kept) == 16


def test_configurations_of_bases_are_remembered() -> None:
    """Those that a build noted answer the next one, with those of the builds before it."""
    double = RegistryDouble()
    for name in ("a", "b"):
        double.add_blob("team/cache", name.encode())

    async def note(client: RegistryClient, name: str, text: bytes) -> None:
        cache = RegistryCache(client, PLACE)
        await cache.load()
        cache.note_config(text)
        await cache.put((key(name),), result(name))
        await cache.refresh()
        await cache.finish()

    async def ask(client: RegistryClient) -> list[bytes | None]:
        cache = RegistryCache(client, PLACE)
        await cache.load()
        return [await cache.config(Digest.of(text)) for text in (b"one", b"two", b"three")]

    with_client(double, lambda client: note(client, "a", b"one"))
    with_client(double, lambda client: note(client, "b", b"two"))
    assert with_client(double, ask) == [b"one", b"two", None]


def test_looking_up_waits_for_the_index() -> None:
    """A look-up that comes before the index has arrived does not ask for every tag."""
    double = RegistryDouble()
    filled(double, ENTRIES)
    before = len(double.log)

    async def ask(client: RegistryClient) -> None:
        cache = RegistryCache(client, PLACE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.look_up, list(ENTRIES))
            nursery.start_soon(cache.load)

    with_client(double, ask)
    assert len(double.log) - before == 1
