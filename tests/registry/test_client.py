"""Manifests: fetched, verified, pushed."""

from __future__ import annotations

import hashlib
import re

import pytest

from asyncbuild.errors import (
    ImageNotFound,
    IntegrityError,
    RegistryError,
    RemoteProtocolError,
)
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.registry.client import Fetched, RegistryClient
from asyncbuild.testing.faults import Action, Corrupt, Respond, Rule, WithHeaders
from asyncbuild.testing.registry import RegistryDouble
from support.double import HOST, with_client

OTHER = str(Digest.of(b"other"))


def fetch(double: RegistryDouble, identifier: str) -> Fetched:
    """A manifest of repository ``a``."""

    async def use(client: RegistryClient) -> Fetched:
        return await client.get_manifest("a", identifier)

    return with_client(double, use)


def test_manifest_by_tag_and_digest() -> None:
    """The raw bytes, their digest and what they say; all four media types are accepted."""
    double = RegistryDouble()
    image = double.add_image("a", "latest", layers=[b"layer"])
    for identifier in ("latest", str(image.digest)):
        found = fetch(double, identifier)
        assert found == Fetched(image.raw, OCI_MANIFEST, image.digest, image)
    for accepted in (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX):
        assert accepted in double.log[0].headers["accept"]


def test_index() -> None:
    """An index is decoded as one; the choice of a platform is the caller's."""
    double = RegistryDouble()
    platform = Platform("linux", "arm64")
    index = double.add_index("a", "multi", {platform: double.add_image("a", None)})
    found = fetch(double, "multi").manifest
    assert isinstance(found, Index)
    assert found == index
    assert found.choose(platform) is not None


def test_resolve() -> None:
    """A reference with a digest is asked for by digest, else by tag."""
    double = RegistryDouble()
    image = double.add_image("team/app", "1.0")
    reference = Reference.parse(f"{HOST}/team/app:1.0")

    async def use(client: RegistryClient) -> None:
        assert (await client.resolve(reference)).digest == image.digest
        assert (await client.resolve(reference.with_digest(image.digest))).digest == image.digest

    with_client(double, use)
    assert [entry.path.rsplit("/", 1)[1] for entry in double.log] == ["1.0", str(image.digest)]


def test_sha512() -> None:
    """A digest of another algorithm names the manifest, and is checked."""
    double = RegistryDouble()
    image = double.add_image("a", "latest")
    digest = Digest("sha512", hashlib.sha512(image.raw).hexdigest())
    double.manifests["a"][digest] = (image.media_type, image.raw)
    assert fetch(double, str(digest)).digest == digest
    double.faults.add(Rule(Corrupt(9), times=None))
    with pytest.raises(IntegrityError):
        fetch(double, str(digest))


def test_media_type_of_the_header() -> None:
    """Content-Type, with parameters, says what a manifest is if it does not say it itself."""
    document = b'{"schemaVersion":2,"config":{"digest":"%s","size":2},"layers":[]}'
    raw = document % str(Digest.of(b"{}")).encode()
    double = RegistryDouble()
    double.faults.add(
        Rule(Respond(200, raw, {"content-type": f"{DOCKER_MANIFEST}; charset=utf-8"}))
    )
    assert fetch(double, "latest").media_type == DOCKER_MANIFEST


@pytest.mark.parametrize("identifier", ["latest", None])
def test_damaged_manifest(identifier: str | None) -> None:
    """Bytes that are not those of the digest (asked for, or said by the registry) are refused."""
    double = RegistryDouble()
    image = double.add_image("a", "latest")
    double.faults.add(Rule(Corrupt(40), times=2))
    with pytest.raises(IntegrityError, match="the manifest of a is not sha256"):
        fetch(double, identifier or str(image.digest))
    double.faults.add(Rule(Corrupt(40), nth=3))
    assert fetch(double, identifier or str(image.digest)).raw == image.raw


@pytest.mark.parametrize(
    ("action", "kind", "words"),
    [
        (Respond(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}'), ImageNotFound, "NAME_UNKNOWN"),
        (Respond(200, b"<html>"), RemoteProtocolError, "no image manifest or index"),
        (Respond(200, b'{"schemaVersion":1}'), RemoteProtocolError, "schemaVersion is 1"),
        (Respond(200, b" " * (4 << 20) + b" "), RemoteProtocolError, "more than 4194304 bytes"),
        (Respond(204), RemoteProtocolError, "not one"),
        (Respond(418, b"short and stout"), RegistryError, "418 short and stout"),
    ],
)
def test_no_manifest(action: Action, kind: type[RegistryError], words: str) -> None:
    """Each answer that is no manifest has its error, with what was asked for."""
    double = RegistryDouble()
    double.faults.add(Rule(action, times=None))
    with pytest.raises(kind, match=words) as caught:
        fetch(double, "latest")
    assert re.search("a(:|/manifests/)latest", caught.value.message)
    assert caught.value.exchange is not None


def test_head() -> None:
    """A tag's digest and size without the bytes; None where there is none."""
    double = RegistryDouble()
    image = double.add_image("a", "latest")

    async def use(client: RegistryClient) -> list[Descriptor | None]:
        return [await client.head_manifest("a", name) for name in ("latest", "none")]

    expected = Descriptor(OCI_MANIFEST, image.digest, len(image.raw))
    assert with_client(double, use) == [expected, None]
    assert {entry.bytes_out for entry in double.log} == {0}
    double.faults.add(Rule(WithHeaders({"docker-content-digest": None})))
    with pytest.raises(RemoteProtocolError, match="without its digest"):
        with_client(double, use)


def test_blob_exists() -> None:
    """HEAD, and nothing else."""
    double = RegistryDouble()
    blob = double.add_blob("a", b"data")

    async def use(client: RegistryClient) -> list[bool]:
        absent = Digest.of(b"absent")
        return [await client.blob_exists("a", digest) for digest in (blob.digest, absent)]

    assert with_client(double, use) == [True, False]
    assert [entry.method for entry in double.log] == ["HEAD", "HEAD"]


def push(double: RegistryDouble, identifier: str, manifest: Manifest | Index) -> None:
    """Push a manifest to repository ``b``."""

    async def use(client: RegistryClient) -> None:
        await client.put_manifest("b", identifier, manifest.raw, manifest.media_type)

    with_client(double, use)


def test_put_manifest() -> None:
    """A manifest by tag, and by digest."""
    double = RegistryDouble()
    image = double.add_image("b", None, layers=[b"layer"])
    double.manifests.clear()
    push(double, "latest", image)
    assert double.manifest("b", "latest") == image
    double.manifests.clear()
    push(double, str(image.digest), image)
    assert double.manifest("b", str(image.digest)) == image
    assert double.log[0].headers["content-type"] == OCI_MANIFEST


def test_put_manifest_of_missing_blobs() -> None:
    """A manifest whose blobs are not there is refused with the registry's words."""
    double = RegistryDouble()
    image = double.add_image("elsewhere", None, layers=[b"layer"])
    with pytest.raises(RegistryError, match="MANIFEST_BLOB_UNKNOWN"):
        push(double, "latest", image)


def test_put_manifest_that_became_another() -> None:
    """A registry that keeps it under another digest is not believed."""
    double = RegistryDouble()
    image = double.add_image("b", None)
    double.faults.add(Rule(WithHeaders({"docker-content-digest": OTHER})))
    with pytest.raises(IntegrityError, match="was meant"):
        push(double, "latest", image)


def test_put_manifest_is_tried_again() -> None:
    """Pushing a manifest twice is pushing it once."""
    double = RegistryDouble()
    image = double.add_image("b", None)
    double.faults.add(Rule(Respond(500), times=2))
    push(double, "latest", image)
    assert [entry.status for entry in double.log] == [500, 500, 201]


def test_a_host_that_is_no_registry() -> None:
    """It has no API: no image is missing there."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(404), "GET", "^/v2/$"))

    async def use(client: RegistryClient) -> None:
        await client.check_access()

    with pytest.raises(RemoteProtocolError, match="is no registry"):
        with_client(double, use)
