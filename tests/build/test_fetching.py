"""Fetching a blob in ranges: the same bytes as in one stream, and one stream where ranges are unknown."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.build.fetching import PART, Fetch, _Parts
from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.streams import Streams
from asyncbuild.errors import RegistryError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_LAYER, Descriptor
from asyncbuild.registry.client import RegistryClient
from asyncbuild.testing.faults import Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.double import with_client

SIZE = 3 * PART + 12345


def content(size: int) -> bytes:
    """Bytes that differ everywhere."""
    block = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(1024))
    return (block * (size // len(block) + 1))[:size]


def fetched(double: RegistryDouble, data: bytes, path: Path) -> bytes:
    """What arrives of ``data``, which the double has, in a growing file."""
    double.add_blob("base", data)
    descriptor = Descriptor(OCI_LAYER, Digest.of(data), len(data))

    async def use(client: RegistryClient) -> bytes:
        file = GrowingFile(path, len(data))
        fetch = Fetch(client, "base", descriptor, file, Streams(4), lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.run)
            seen = b"".join([chunk async for chunk in file.tail()])
        file.close()
        return seen

    return with_client(double, use)


def test_a_large_blob_comes_in_ranges(tmp_path: Path) -> None:
    """Each part is asked for once, and a reader sees the bytes in order."""
    double = RegistryDouble()
    data = content(SIZE)
    assert fetched(double, data, tmp_path / "blob") == data
    ranges = [item.headers.get("range") for item in double.log if "/blobs/" in item.path]
    assert sorted(map(str, ranges)) == sorted(
        f"bytes={start}-{min(start + PART, SIZE) - 1}" for start in range(0, SIZE, PART)
    )


def test_a_small_blob_comes_in_one_stream(tmp_path: Path) -> None:
    """Below two parts there is one plain request."""
    double = RegistryDouble()
    data = content(PART + 1)
    assert fetched(double, data, tmp_path / "blob") == data
    assert [item.headers.get("range") for item in double.log] == [None]


@given(
    total=st.integers(1, 5 * PART),
    data=st.data(),
)
def test_what_is_there_without_a_gap(total: int, data: st.DataObject) -> None:
    """However parts grow, the size counts exactly the bytes before the first gap."""
    parts = _Parts(total)
    taken = []
    while (part := parts.take()) is not None:
        taken.append(part)
    known = dict.fromkeys(taken, 0)
    for _ in range(data.draw(st.integers(1, 12))):
        part = data.draw(st.sampled_from(taken))
        start, end = parts.bounds(part)
        count = data.draw(st.integers(0, end - start - known[part]))
        known[part] += count
        size = parts.add(part, count)
        expected = 0
        for each in taken:
            first, last = parts.bounds(each)
            expected += known[each]
            if known[each] < last - first:
                break
        assert size == expected


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
