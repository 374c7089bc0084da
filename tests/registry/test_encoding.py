"""Content-Encoding of servers that compress although they were asked not to."""

from __future__ import annotations

import gzip
import random

import pytest

from asyncbuild.errors import IntegrityError, RemoteProtocolError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_LAYER, OCI_LAYER_GZIP, Descriptor
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.encoding import BlobInflater, Damaged, Inflater, inflated
from asyncbuild.testing.faults import Drop, Lengthen, Respond, Rule, WithHeaders
from asyncbuild.testing.quirks import Quirks
from asyncbuild.testing.registry import RegistryDouble
from support.double import read_all, with_client

PLAIN = random.Random(1).randbytes(3 << 20)
PACKED = gzip.compress(PLAIN, 1, mtime=0)


def test_bounds() -> None:
    """What is more than it may be is found out before it is made."""
    assert inflated(gzip.compress(b"abc"), 3) == b"abc"
    with pytest.raises(Damaged, match="more bytes"):
        inflated(gzip.compress(bytes(1 << 24)), 1000)
    with pytest.raises(Damaged, match="not gzip"):
        inflated(b"abc", 3)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_any_pieces(size: int) -> None:
    """How the bytes are cut does not matter."""
    inflater = Inflater(len(PLAIN))
    pieces = [PACKED[place : place + size] for place in range(0, 300_000, size)]
    assert PLAIN.startswith(b"".join(map(inflater.feed, pieces)))


@pytest.mark.parametrize(
    ("media_type", "blob", "sent"),
    [
        (OCI_LAYER, PLAIN, PACKED),
        (OCI_LAYER_GZIP, PACKED, gzip.compress(PACKED, 1)),
        (OCI_LAYER_GZIP, PACKED, PACKED),
    ],
    ids=["compressed", "compressed twice", "compressed itself"],
)
def test_blobs(media_type: str, blob: bytes, sent: bytes) -> None:
    """A blob that is compressed itself is not unpacked, though its server says that it compressed it."""
    inflater = BlobInflater(Descriptor(media_type, Digest.of(blob), len(blob)))
    pieces = [sent[place : place + 50_000] for place in range(0, len(sent), 50_000)]
    assert b"".join(map(inflater.feed, pieces)) == blob


async def fetch(client: RegistryClient, blob: Descriptor) -> bytes:
    """A whole blob."""
    async with client.open_blob("a", blob) as chunks:
        return await read_all(chunks)


@pytest.mark.parametrize("pattern", ["/blobs/", "/manifests/"])
@pytest.mark.parametrize("faults", [(), (Rule(Drop(1 << 20), path="/blobs/"),)])
def test_a_server_that_compresses(pattern: str, faults: tuple[Rule, ...]) -> None:
    """Manifests and blobs are what they would be without it, also if the connection breaks."""
    double = RegistryDouble()
    double.quirks = Quirks(encoding=pattern)
    double.faults.add(*faults)
    manifest = double.add_image("a", "1", layers=(PLAIN,), compress=False)

    async def use(client: RegistryClient) -> None:
        assert (await client.get_manifest("a", "1")).manifest == manifest
        assert await fetch(client, manifest.layers[0]) == PLAIN

    with_client(double, use)


def test_a_store_that_says_so_of_compressed_blobs() -> None:
    """The header is there, the bytes are the blob's own: nothing is done to them."""
    double = RegistryDouble()
    blob = double.add_blob("a", PACKED, OCI_LAYER_GZIP)
    double.faults.add(Rule(WithHeaders({"content-encoding": "gzip"}), times=None))
    assert with_client(double, lambda client: fetch(client, blob)) == PACKED


def test_what_only_says_that_it_is_compressed() -> None:
    """Nonsense is an error of its kind."""
    double = RegistryDouble()
    blob = double.add_blob("a", PLAIN)
    lying = {"content-encoding": "gzip"}
    double.faults.add(Rule(Respond(200, b"nonsense", lying), times=None))
    with pytest.raises(IntegrityError, match="not gzip"):
        with_client(double, lambda client: fetch(client, blob))
    with pytest.raises(RemoteProtocolError, match="not gzip"):
        with_client(double, lambda client: client.get_manifest("a", "1"))


def test_more_than_the_blob() -> None:
    """A blob that unpacks to more than its manifest says is refused."""
    double = RegistryDouble()
    blob = double.add_blob("a", PLAIN)
    double.quirks = Quirks(encoding="/blobs/")
    double.blobs["a"][blob.digest] = PLAIN + b"more"
    with pytest.raises(IntegrityError):
        with_client(double, lambda client: fetch(client, blob))
    double.blobs["a"][blob.digest] = PLAIN
    double.faults.add(Rule(Lengthen(b"trailing"), times=None))
    assert with_client(double, lambda client: fetch(client, blob)) == PLAIN
