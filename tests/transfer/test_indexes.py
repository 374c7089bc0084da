"""Merging images into one index."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from asyncbuild.errors import UsageError
from asyncbuild.image.config import ImageConfig
from asyncbuild.image.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    to_docker,
)
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.registry.client import Fetched
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_transport import DoubleTransport
from asyncbuild.transfer.indexes import (
    IndexAnnotations,
    IndexPush,
    Part,
    fetch_parts,
    index_of,
    merge,
)
from support.builds import Recorder

HOST = "registry.example"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")


def image(double: RegistryDouble, name: str, platform: Platform) -> Manifest:
    """An image for a platform."""
    return double.add_image(name, "1", ImageConfig(platform), (platform.architecture.encode(),))


def attested(double: RegistryDouble, name: str, platform: Platform) -> Index:
    """What a build with provenance pushes: an index of an image and its attestation."""
    built = image(double, name, platform)
    statement = double.add_image(name, None, layers=(b"statement",))
    annotations = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(built.digest),
    }
    entries = (
        replace(built.descriptor, platform=platform),
        replace(
            statement.descriptor,
            platform=Platform("unknown", "unknown"),
            annotations=annotations,
        ),
    )
    index = Index.make(entries)
    double.add_manifest(name, "1", index)
    return index


def create(double: RegistryDouble, sources: list[str], *names: str) -> Index:
    """Merge ``sources`` and push the index."""

    async def main() -> Index:
        settings = RegistrySettings(transport=DoubleTransport(double))
        async with Registries(settings) as registries, trio.open_nursery() as nursery:
            references = [Reference.parse(f"{HOST}/{source}") for source in sources]
            parts = await fetch_parts(registries, references)
            made = index_of(parts, IndexAnnotations())
            push = IndexPush(registries, Recorder(), nursery, parts, made)
            await push.run(Reference.parse(f"{HOST}/{name}") for name in names)
            nursery.cancel_scope.cancel()
        assert isinstance(made.manifest, Index)
        return made.manifest

    return trio.run(main)


def test_two_builds_become_one_image() -> None:
    """Plain images get their platform from their configuration; the parts may be named by digest."""
    double = RegistryDouble()
    one, two = image(double, "app", AMD64), image(double, "app", ARM64)
    made = create(double, [f"app@{one.digest}", f"app@{two.digest}"], "app:all", "app:latest")
    assert made.media_type == OCI_INDEX
    assert made.manifests == (
        replace(one.descriptor, platform=AMD64),
        replace(two.descriptor, platform=ARM64),
    )
    assert double.manifest("app", "all") == double.manifest("app", "latest") == made


def test_attestations_come_along() -> None:
    """Indexes give all their entries, in their order."""
    double = RegistryDouble()
    one, two = attested(double, "one", AMD64), attested(double, "two", ARM64)
    made = create(double, ["one:1", "two:1"], "app:1")
    wanted = {entry.digest: entry for entry in (*one.manifests, *two.manifests)}
    assert {entry.digest for entry in made.manifests} == set(wanted)
    assert set(double.manifests["app"]) == {*wanted, made.digest}


def test_parts_of_other_repositories_are_mounted() -> None:
    """No blob is fetched where source and index share a registry."""
    double = RegistryDouble()
    image(double, "one", AMD64)
    image(double, "two", ARM64)
    create(double, ["one:1", "two:1"], "app:1", "other:1")
    assert {entry.path for entry in double.asked("GET", "/blobs/")} == {
        entry.path for entry in double.asked("GET", "/blobs/") if entry.bytes_out < 1000
    }  # the configurations
    assert double.asked("PUT", "/uploads/") == []


def test_one_index_stays_as_it_is() -> None:
    """The digest of an index that is the only part is not changed; an image becomes an index."""
    double = RegistryDouble()
    index = attested(double, "one", AMD64)
    assert create(double, ["one:1"], "app:1").digest == index.digest
    image(double, "two", ARM64)
    assert len(create(double, ["two:1"], "app:2").manifests) == 1


def part(*entries: Descriptor) -> Part:
    """A part of an index with ``entries``."""
    index = Index.make(entries)
    fetched = Fetched(index.raw, index.media_type, index.digest, index)
    return Part(Reference.parse("r.example/a"), fetched, entries)


def entry(name: bytes, platform: Platform | None, media_type: str = "") -> Descriptor:
    """An entry of an index."""
    manifest = RegistryDouble().add_image("a", None, layers=(name,))
    found = replace(manifest.descriptor, platform=platform)
    return replace(found, media_type=media_type) if media_type else found


def test_equal_digests_are_one_entry() -> None:
    """The first counts."""
    one = entry(b"1", AMD64)
    assert merge([part(one), part(one)]).manifests == (one,)


def test_two_images_for_one_platform_are_refused() -> None:
    """Which of them is meant nobody could tell; images of no platform are no images."""
    with pytest.raises(UsageError, match="two images are for linux/amd64"):
        merge([part(entry(b"1", AMD64)), part(entry(b"2", AMD64))])
    assert len(merge([part(entry(b"1", None)), part(entry(b"2", None))]).manifests) == 2


def test_dockers_types() -> None:
    """Docker's images make docker's index, unless something is said that it cannot hold."""
    docker = part(entry(b"1", AMD64, DOCKER_MANIFEST))
    assert to_docker(OCI_INDEX) == DOCKER_INDEX == merge([docker]).media_type
    assert merge([docker, part(entry(b"2", ARM64))]).media_type == OCI_INDEX
    assert merge([docker], IndexAnnotations({"a": "b"})).media_type == OCI_INDEX


def test_annotations() -> None:
    """Of the index, of all images, of the images of one platform."""
    annotations = IndexAnnotations(
        {"of": "index"}, ((None, "every", "image"), (ARM64, "one", "platform"))
    )
    other = replace(entry(b"3", None), annotations={"kept": "yes"})
    made = merge([part(entry(b"1", AMD64), entry(b"2", ARM64), other)], annotations)
    assert made.annotations == {"of": "index"}
    assert [item.annotations for item in made.manifests] == [
        {"every": "image"},
        {"every": "image", "one": "platform"},
        {"kept": "yes"},
    ]
