"""Reading blobs: whole, broken, resumed, and of the wrong size."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.errors import (
    ImageNotFound,
    IntegrityError,
    RegistryUnavailable,
    RemoteProtocolError,
)
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_LAYER, Descriptor
from asyncbuild.registry.client import RegistryClient
from asyncbuild.testing.faults import (
    Action,
    Corrupt,
    Drop,
    Hang,
    Lengthen,
    Respond,
    Rule,
    Shorten,
    WithHeaders,
    WrongLength,
)
from asyncbuild.testing.registry import RegistryDouble
from support.double import read_all, with_client

DATA = random.Random(5).randbytes(300_000)


def download(
    *rules: Rule, size: int | None = None, start: int = 0, end: int | None = None
) -> tuple[bytes, RegistryDouble]:
    """Read `DATA` as a blob of a double with these faults; ``size`` is what its descriptor claims."""
    double = RegistryDouble()
    descriptor = double.add_blob("a", DATA)
    if size is not None:
        descriptor = replace(descriptor, size=size)
    double.faults.add(*rules)

    async def use(client: RegistryClient) -> bytes:
        async with client.open_blob("a", descriptor, start=start, end=end) as chunks:
            return await read_all(chunks)

    return with_client(double, use), double


def ranges(double: RegistryDouble) -> list[str]:
    """The Range header of each request."""
    return [entry.headers.get("range", "") for entry in double.log]


def test_whole_blob() -> None:
    """One request, as it is stored: no Range, no content coding."""
    data, double = download()
    assert data == DATA
    assert ranges(double) == [""]
    assert double.log[0].headers["accept-encoding"] == "identity"


def test_part_of_a_blob() -> None:
    """Only the bytes that are asked for."""
    data, double = download(start=1000, end=5000)
    assert data == DATA[1000:5000]
    assert ranges(double) == ["bytes=1000-4999"]
    assert download(start=1000, end=1000)[0] == b""
    assert download(start=299_999, end=10**9)[0] == DATA[-1:]


def test_part_from_a_server_that_ignores_ranges() -> None:
    """A server may answer with the whole blob: only the part is given."""
    whole = Respond(200, DATA, {"content-type": "application/octet-stream"})
    assert download(Rule(whole), start=1000, end=5000)[0] == DATA[1000:5000]


def test_empty_blob() -> None:
    """A blob without bytes."""
    double = RegistryDouble()
    descriptor = double.add_blob("a", b"")

    async def use(client: RegistryClient) -> bytes:
        return await client.get_blob("a", descriptor)

    assert with_client(double, use) == b""


def test_resumed_where_it_broke() -> None:
    """After a break the rest is asked for, from the byte where it broke."""
    data, double = download(Rule(Drop(after=100_000)), Rule(Drop(after=50_000), nth=2))
    assert data == DATA
    assert ranges(double) == ["", "bytes=100000-299999", "bytes=150000-299999"]


def test_resumed_after_a_hang() -> None:
    """A connection on which nothing comes any more is given up, and the rest is asked for."""
    data, double = download(Rule(Hang(after=100_000)))
    assert data == DATA
    assert ranges(double) == ["", "bytes=100000-299999"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(DATA)), max_size=4))
def test_wherever_it_breaks(places: list[int]) -> None:
    """Four breaks anywhere change nothing of what comes."""
    rules = [Rule(Drop(after=place), nth=1 + number) for number, place in enumerate(places)]
    assert download(*rules)[0] == DATA


def test_it_gives_up() -> None:
    """A blob that breaks off again and again without getting on is given up."""
    double = RegistryDouble()
    descriptor = double.add_blob("a", DATA)
    double.faults.add(Rule(Drop(after=10), times=None))

    async def use(client: RegistryClient) -> None:
        async with client.open_blob("a", descriptor) as chunks:
            await read_all(chunks)

    with pytest.raises(RegistryUnavailable, match="the connection broke"):
        with_client(double, use)
    assert len(double.log) == 5


def test_a_bad_link_is_endured() -> None:
    """Breaks are counted anew whenever a MiB has come: a large blob survives many of them."""
    double = RegistryDouble()
    data = random.Random(6).randbytes(12 << 20)
    descriptor = double.add_blob("a", data)
    double.faults.add(Rule(Drop(after=1_100_000), times=None))

    async def use(client: RegistryClient) -> bytes:
        async with client.open_blob("a", descriptor) as chunks:
            return await read_all(chunks)

    assert with_client(double, use) == data
    assert len(double.log) == 12


@pytest.mark.parametrize(
    ("action", "size"),
    [
        (Shorten(1000), None),
        (Lengthen(b"more"), None),
        (WrongLength(-1), None),
        (WrongLength(10), None),
        (None, 1000),
        (None, 300_001),
    ],
)
def test_wrong_size(action: Action | None, size: int | None) -> None:
    """A blob of another size than its descriptor says is an error, before any byte of it is believed."""
    rules = [] if action is None else [Rule(action)]
    with pytest.raises(IntegrityError, match="bytes where its manifest says") as caught:
        download(*rules, size=size)
    assert caught.value.exchange is not None
    assert caught.value.exchange.status == 200


def test_part_that_is_not_there() -> None:
    """416 says that the blob is shorter than its descriptor."""
    with pytest.raises(IntegrityError, match="less bytes"):
        download(Rule(Respond(416)), start=1000)


@pytest.mark.parametrize("span", ["bytes 0-9/10", "bytes 1001-299999/300000", "bytes x", None])
def test_wrong_range(span: str | None) -> None:
    """Another range than the one that was asked for is never spliced in."""
    with pytest.raises(RemoteProtocolError, match="another range"):
        download(Rule(WithHeaders({"content-range": span})), start=1000)


def test_range_of_another_blob() -> None:
    """A range whose total is another size is of another blob."""
    with pytest.raises(IntegrityError, match="299999999 bytes"):
        download(Rule(WithHeaders({"content-range": "bytes 1000-299999/299999999"})), start=1000)


def test_small_blob_is_verified() -> None:
    """`get_blob` checks the digest, and asks twice; what streams is checked by its reader."""
    assert download(Rule(Corrupt(7)))[0] != DATA
    double = RegistryDouble()
    descriptor = double.add_blob("a", b"{}")
    double.faults.add(Rule(Corrupt(1), times=2), Rule(Corrupt(1), nth=3))

    async def use(client: RegistryClient) -> bytes:
        return await client.get_blob("a", descriptor)

    with pytest.raises(IntegrityError, match="has another digest"):
        with_client(double, use)
    assert with_client(double, use) == b"{}"


def test_small_blob_has_a_limit() -> None:
    """What a manifest calls a configuration is not read into memory whatever its size."""

    async def use(client: RegistryClient) -> None:
        await client.get_blob("a", Descriptor("x", Digest.of(b""), 1 << 40))

    with pytest.raises(IntegrityError, match="more than the"):
        with_client(RegistryDouble(), use)


def test_missing_blob() -> None:
    """A blob that is not there is said when the block is entered, with the registry's words."""

    async def use(client: RegistryClient) -> None:
        async with client.open_blob("a", Descriptor(OCI_LAYER, Digest.of(b"none"), 4)):
            raise AssertionError("entered")

    with pytest.raises(ImageNotFound, match="404 BLOB_UNKNOWN"):
        with_client(RegistryDouble(), use)


def test_reader_that_stops_early() -> None:
    """A reader may leave in the middle, by itself, by an exception or cancelled: the connection is freed."""
    double = RegistryDouble()
    descriptor = double.add_blob("a", DATA)
    double.faults.add(Rule(Hang(after=70_000), nth=3))

    async def use(client: RegistryClient) -> None:
        async with client.open_blob("a", descriptor) as chunks:
            assert await anext(chunks)
        with contextlib.suppress(ZeroDivisionError):
            async with client.open_blob("a", descriptor) as chunks:
                await anext(chunks)
                raise ZeroDivisionError
        with trio.move_on_after(1) as scope:
            async with client.open_blob("a", descriptor) as chunks:
                await read_all(chunks)
        assert scope.cancelled_caught

    with_client(double, use)
    assert [entry.ended is not None for entry in double.log] == [True, True, True]


def test_redirect_is_followed_for_the_rest() -> None:
    """After a break the registry is asked again: a signed URL may have expired."""
    double = RegistryDouble(blob_host="cdn.example")
    descriptor = double.add_blob("a", DATA)
    double.faults.add(Rule(Drop(after=1000), path="^/cdn/"))

    async def use(client: RegistryClient) -> bytes:
        async with client.open_blob("a", descriptor) as chunks:
            return await read_all(chunks)

    assert with_client(double, use) == DATA
    assert [(entry.host, entry.headers.get("range")) for entry in double.log] == [
        ("registry.example", None),
        ("cdn.example", None),
        ("registry.example", "bytes=1000-299999"),
        ("cdn.example", "bytes=1000-299999"),
    ]


def test_a_break_at_nine_tenths_costs_no_byte_twice() -> None:
    """What came before the connection was killed is not sent again."""
    double = RegistryDouble()
    data = random.Random(4).randbytes(10 << 20)
    blob = double.add_blob("a", data)
    double.faults.add(Rule(Drop(after=9 << 20), "GET"))

    async def use(client: RegistryClient) -> bytes:
        async with client.open_blob("a", blob) as chunks:
            return await read_all(chunks)

    assert with_client(double, use) == data
    assert len(double.log) == 2
    assert sum(entry.bytes_out for entry in double.log) == len(data)
