"""Fetching a blob in parts: the same bytes as in one stream, and one stream where ranges are unknown."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import trio

from asyncbuild.build.fetching import WORTH_SPLITTING, Fetch
from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.parts import PART
from asyncbuild.build.streams import Streams
from asyncbuild.errors import RateLimited, RegistryError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_LAYER, Descriptor
from asyncbuild.registry.client import RegistryClient
from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest, error_answer
from asyncbuild.testing.faults import Delay, Drop, Respond, Rule
from asyncbuild.testing.quirks import Quirks
from asyncbuild.testing.registry import RegistryDouble
from support.double import with_client

SIZE = 3 * PART + 12345


def content(size: int, salt: bytes = b"") -> bytes:
    """Bytes that differ everywhere."""
    block = b"".join(hashlib.sha256(b"%s%d" % (salt, n)).digest() for n in range(1024))
    return (block * (size // len(block) + 1))[:size]


async def read(client: RegistryClient, data: bytes, path: Path, streams: Streams) -> bytes:
    """What a reader sees of ``data``, which the registry has, in a file that grows."""
    descriptor = Descriptor(OCI_LAYER, Digest.of(data), len(data))
    file = GrowingFile(path, len(data))
    fetch = Fetch(client, "base", descriptor, file, streams, lambda _: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch.run)
        seen = b"".join([chunk async for chunk in file.tail()])
    file.close()
    return seen


def fetched(double: RegistryDouble, data: bytes, path: Path, count: int = 4) -> bytes:
    """What arrives of ``data`` alone, with ``count`` streams."""
    double.add_blob("base", data)
    return with_client(double, lambda client: read(client, data, path, Streams(count)))


def ranges(double: RegistryDouble) -> list[tuple[int, int] | None]:
    """The first and the last byte of each request for a blob, in the order of the requests."""
    found: list[tuple[int, int] | None] = []
    for entry in double.asked("GET", "/blobs/"):
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", entry.headers.get("range", ""))
        found.append((int(match[1]), int(match[2])) if match else None)
    return found


def most_at_once(double: RegistryDouble, since: float = 0.0) -> int:
    """How many requests for blobs were under way at the same time, of those begun at ``since`` or later."""
    asked = [entry for entry in double.asked("GET", "/blobs/") if entry.ended is not None]
    asked = [entry for entry in asked if entry.started >= since]
    return max(
        sum(other.started <= entry.started < (other.ended or 0) for other in asked)
        for entry in asked
    )


def test_a_large_blob_comes_in_parts(tmp_path: Path) -> None:
    """Every byte is asked for once, and a reader sees them in order."""
    double = RegistryDouble()
    data = content(SIZE)
    assert fetched(double, data, tmp_path / "blob") == data
    asked = sorted(span for span in ranges(double) if span is not None)
    assert len(asked) == len(ranges(double))
    assert asked[0][0] == 0
    assert asked[-1][1] == SIZE - 1
    assert [span[0] for span in asked[1:]] == [span[1] + 1 for span in asked[:-1]]


def test_a_large_blob_that_is_alone_has_all_streams(tmp_path: Path) -> None:
    """They all ask before the first answer is there, for small parts from the first byte on."""
    double = RegistryDouble()
    double.faults.add(Rule(Delay(1.0), "GET", "/blobs/", times=None))
    data = content(180_000_000)
    assert fetched(double, data, tmp_path / "blob", 24) == data
    assert most_at_once(double) == 24
    assert most_at_once(double, since=1.0) <= 16
    first = [span for span in ranges(double)[:24] if span is not None]
    assert len(first) == 24
    assert min(first) == (0, (3 << 20) - 1)


def test_several_blobs_share_the_streams(tmp_path: Path) -> None:
    """However many blobs there are, there are no more streams than for one."""
    double = RegistryDouble()
    double.faults.add(Rule(Delay(1.0), "GET", "/blobs/", times=None))
    blobs = [content(SIZE, b"%d" % number) for number in range(3)]
    blobs += [content(5000, b"%d" % number) for number in range(20)]
    for data in blobs:
        double.add_blob("base", data)

    async def use(client: RegistryClient) -> None:
        streams = Streams(8)

        async def one(number: int, data: bytes) -> None:
            assert await read(client, data, tmp_path / str(number), streams) == data

        async with trio.open_nursery() as nursery:
            for number, data in enumerate(blobs):
                nursery.start_soon(one, number, data)

    with_client(double, use)
    assert most_at_once(double) == 8
    assert ranges(double).count(None) == 20


def test_small_blobs_come_in_one_stream_each(tmp_path: Path) -> None:
    """Below a certain size there is one plain request."""
    double = RegistryDouble()
    data = content(WORTH_SPLITTING - 1)
    assert fetched(double, data, tmp_path / "blob") == data
    assert ranges(double) == [None]


def test_parts_are_large_where_a_round_trip_costs_nothing(tmp_path: Path) -> None:
    """An answer that took no time says so: no more requests than for the bytes, and fewer at a time."""
    double = RegistryDouble()
    size = 9 * PART + 12345
    data, small = content(size), content(10)
    double.add_blob("base", data)

    async def use(client: RegistryClient) -> bytes:
        await client.get_blob("base", double.add_blob("base", small))
        double.faults.add(Rule(Delay(1.0), "GET", "/blobs/", times=None))
        return await read(client, data, tmp_path / "blob", Streams(24))

    assert with_client(double, use) == data
    assert sorted(span for span in ranges(double) if span is not None) == [
        (start, min(start + PART, size) - 1) for start in range(0, size, PART)
    ]
    assert most_at_once(double) == 8


def test_without_ranges_there_is_one_stream_and_no_second_try(tmp_path: Path) -> None:
    """The requests for parts are broken off; the next blob is asked for as a whole at once."""
    double = RegistryDouble()
    double.quirks = Quirks(ranges=False)
    first, second = content(SIZE, b"first"), content(SIZE, b"second")
    for data in (first, second):
        double.add_blob("base", data)

    async def use(client: RegistryClient) -> None:
        streams = Streams(4)
        assert await read(client, first, tmp_path / "first", streams) == first
        asked = len(double.log)
        assert 2 <= asked <= 5
        assert await read(client, second, tmp_path / "second", streams) == second
        assert len(double.log) == asked + 1

    with_client(double, use)
    assert ranges(double)[-1] is None
    assert sum(entry.bytes_out for entry in double.log) < 2 * SIZE + (4 << 20)


class _Cramped(RegistryDouble):
    """Answers so many requests for blobs at a time, and refuses those beyond."""

    room = 3
    refused = 0

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """As the double, with room."""
        under_way = [each for each in self.asked("GET", "/blobs/") if each.ended is None]
        if entry in under_way and under_way.index(entry) >= self.room:
            self.refused += 1
            return error_answer(503, "UNAVAILABLE", "too many connections")
        return await super().handle(asked, entry)


def test_a_host_that_refuses_many_connections_gives_all_with_few(tmp_path: Path) -> None:
    """The streams that it does not want leave their parts to the others."""
    double = _Cramped()
    double.faults.add(Rule(Delay(20.0), "GET", "/blobs/", times=None))  # longer than patience
    data = content(60_000_000)
    assert fetched(double, data, tmp_path / "blob", 12) == data
    assert double.refused > 0


def test_a_host_that_refuses_all_is_an_error(tmp_path: Path) -> None:
    """The last stream has nobody to leave its part to."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(429), "GET", "/blobs/", nth=3, times=None))
    with pytest.raises(BaseExceptionGroup) as caught:
        fetched(double, content(SIZE), tmp_path / "blob")
    assert caught.value.split(RateLimited)[1] is None


def test_parts_go_on_where_they_broke(tmp_path: Path) -> None:
    """No byte that arrived is asked for again."""
    double = RegistryDouble()
    double.faults.add(Rule(Drop(after=1_000_000), "GET", "/blobs/", times=6))
    data = content(SIZE)
    assert fetched(double, data, tmp_path / "blob") == data
    assert sum(entry.bytes_out for entry in double.log) == SIZE


def test_a_refused_part_fails_the_readers(tmp_path: Path) -> None:
    """An error of one part is the reader's error too, and nothing goes on."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(403), "GET", "/blobs/", nth=2, times=None))
    with pytest.raises((RegistryError, BaseExceptionGroup)):
        fetched(double, content(SIZE), tmp_path / "blob")


def test_digest_of_parts(tmp_path: Path) -> None:
    """The file that readers see is the blob that its digest names."""
    data = content(SIZE)
    assert Digest.of(fetched(RegistryDouble(), data, tmp_path / "blob")) == Digest.of(data)
