"""Manifests and indexes: decoded with care, encoded alike, their raw bytes kept."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.image import manifest as m
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import (
    Descriptor,
    Index,
    InvalidManifest,
    Manifest,
    parse_manifest,
    to_docker,
    to_oci,
)
from asyncbuild.image.platform import Platform

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")
CONFIG = Descriptor(m.OCI_CONFIG, Digest.of(b"config"), 6)
LAYER = Descriptor(m.OCI_LAYER_GZIP, Digest.of(b"layer"), 5)


def entry(platform: Platform | None, **more: Any) -> Descriptor:
    """An index entry whose digest tells it from others."""
    digest = Digest.of(f"{platform}{more}".encode())
    return replace(Descriptor(m.OCI_MANIFEST, digest, 7, platform), **more)


_TEXT = st.text(max_size=8)
_DESCRIPTORS = st.builds(
    Descriptor,
    _TEXT,
    st.binary(max_size=3).map(Digest.of),
    st.integers(0, 2**63),
    st.sampled_from([None, AMD64, ARM64]),
    st.dictionaries(_TEXT, _TEXT, max_size=2),
    st.lists(_TEXT, max_size=2).map(tuple),
    _TEXT,
)
_ANNOTATIONS = st.dictionaries(_TEXT, _TEXT, max_size=3)


@given(_DESCRIPTORS)
def test_descriptor_round_trip(descriptor: Descriptor) -> None:
    """A descriptor is decoded as it was encoded, through JSON text."""
    assert Descriptor.from_json(json.loads(json.dumps(descriptor.to_json()))) == descriptor


@given(_DESCRIPTORS, st.lists(_DESCRIPTORS, max_size=3), _ANNOTATIONS)
def test_manifest_round_trip(
    config: Descriptor, layers: list[Descriptor], annotations: dict[str, str]
) -> None:
    """A manifest that is made is parsed back, byte for byte."""
    made = Manifest.make(config, tuple(layers), annotations=annotations)
    parsed = parse_manifest(made.raw)
    assert parsed == made
    assert made.digest == Digest.of(made.raw)
    assert made.descriptor == Descriptor(m.OCI_MANIFEST, made.digest, len(made.raw))
    shuffled = dict(reversed(annotations.items()))
    assert Manifest.make(config, tuple(layers), annotations=shuffled).raw == made.raw


@given(st.lists(_DESCRIPTORS, max_size=3), _ANNOTATIONS)
def test_index_round_trip(entries: list[Descriptor], annotations: dict[str, str]) -> None:
    """An index that is made is parsed back, byte for byte."""
    made = Index.make(tuple(entries), annotations=annotations)
    assert parse_manifest(made.raw) == made
    assert made.digest == Digest.of(made.raw)


def test_raw_bytes_are_kept() -> None:
    """Spaces, order and unknown fields of a registry's manifest are part of its digest."""
    raw = (
        b'{ "layers": [], "new": 1, "config": '
        + json.dumps(CONFIG.to_json()).encode()
        + b', "schemaVersion": 2 }'
    )
    parsed = parse_manifest(raw, m.DOCKER_MANIFEST + "; charset=utf-8")
    assert isinstance(parsed, Manifest)
    assert parsed.raw == raw
    assert parsed.media_type == m.DOCKER_MANIFEST
    assert parsed.digest == Digest.of(raw)


def test_bytes_that_are_not_utf_8() -> None:
    """A byte of an argument that was no UTF-8 is written as JSON can hold it."""
    made = Manifest.make(CONFIG, (), annotations={"a": "\udcff"})
    assert parse_manifest(made.raw) == made


@pytest.mark.parametrize(
    ("document", "content_type", "found"),
    [
        ({"layers": []}, "", m.OCI_MANIFEST),
        ({"layers": []}, m.DOCKER_MANIFEST, m.DOCKER_MANIFEST),
        ({"layers": [], "mediaType": m.DOCKER_MANIFEST}, m.OCI_MANIFEST, m.DOCKER_MANIFEST),
        ({"layers": []}, "application/json", m.OCI_MANIFEST),
        ({"manifests": []}, "", m.OCI_INDEX),
        ({"manifests": []}, m.DOCKER_INDEX, m.DOCKER_INDEX),
    ],
)
def test_media_types(document: dict[str, Any], content_type: str, found: str) -> None:
    """The document's own type wins, then the answer's; the content decides what it is."""
    whole = {"schemaVersion": 2, "config": CONFIG.to_json(), **document}
    assert parse_manifest(json.dumps(whole).encode(), content_type).media_type == found


_GOOD = {"schemaVersion": 2, "config": CONFIG.to_json(), "layers": [LAYER.to_json()]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schemaVersion": 1}, "schemaVersion is 1"),
        ({"schemaVersion": "2"}, "schemaVersion"),
        ({"manifests": []}, "neither"),
        ({"layers": {}}, "layers is not a list"),
        ({"config": None}, "not an object"),
        ({"config": {**CONFIG.to_json(), "size": -1}}, "size is -1"),
        ({"config": {**CONFIG.to_json(), "size": True}}, "size is True"),
        ({"config": {**CONFIG.to_json(), "size": 1.5}}, "size is 1.5"),
        ({"config": {**CONFIG.to_json(), "digest": "sha256:x"}}, "digest"),
        ({"config": {**CONFIG.to_json(), "digest": None}}, "digest"),
        ({"config": {**CONFIG.to_json(), "urls": 5}}, "urls"),
        ({"config": {**CONFIG.to_json(), "urls": "http"}}, "urls"),
        ({"config": {**CONFIG.to_json(), "annotations": []}}, "annotations"),
        ({"layers": [None]}, "not an object"),
        ({"annotations": "x"}, "annotations"),
    ],
)
def test_refused(change: dict[str, Any], said: str) -> None:
    """A manifest with a field that cannot be is refused, and the field is named."""
    with pytest.raises(InvalidManifest, match=said):
        parse_manifest(json.dumps({**_GOOD, **change}).encode())


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 9999]
)
def test_not_json(raw: bytes) -> None:
    """Bytes that are no JSON object are refused, deep nesting included."""
    with pytest.raises(InvalidManifest):
        parse_manifest(raw)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {"schemaVersion": st.just(2)},
        optional={
            name: st.one_of(
                _JSON,
                st.lists(
                    st.dictionaries(
                        st.sampled_from(
                            ["mediaType", "digest", "size", "platform", "annotations", "urls"]
                        ),
                        _JSON,
                    )
                ),
            )
            for name in ("layers", "manifests", "config", "annotations", "mediaType")
        },
    )
)
def test_any_json(document: dict[str, Any]) -> None:
    """Whatever a registry answers is decoded or refused, never another error."""
    with contextlib.suppress(InvalidManifest):
        parse_manifest(json.dumps(document).encode())


def test_choose() -> None:
    """The entry for the platform is chosen; attestations and foreign artifacts never."""
    attestation = entry(AMD64, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    artifact = entry(AMD64, media_type="application/x")
    arm, amd = entry(ARM64), entry(AMD64)
    index = Index.make((attestation, artifact, arm, amd, entry(AMD64, size=8)))
    assert index.choose(AMD64) == amd
    assert index.choose(Platform("linux", "arm64")) == arm
    assert index.choose(Platform("linux", "s390x")) is None
    assert Index.make(()).choose(AMD64) is None


def test_choose_the_best_variant() -> None:
    """The highest variant that runs is chosen, whatever the order of the entries."""
    v5, v6 = (entry(Platform("linux", "arm", variant)) for variant in ("v5", "v6"))
    index = Index.make((v5, v6))
    assert index.choose(Platform("linux", "arm", "v7")) == v6
    assert index.choose(Platform("linux", "arm", "v6")) == v6
    assert index.choose(Platform("linux", "arm", "v5")) == v5
    only = Index.make((entry(Platform("linux", "amd64", "v3")),))
    assert only.choose(AMD64) is None


def test_choose_without_platforms() -> None:
    """A single entry without a platform is taken; of several none can be."""
    lone = entry(None)
    assert Index.make((lone,)).choose(AMD64) == lone
    assert Index.make((lone, entry(None, size=9))).choose(AMD64) is None


def test_media_types_of_docker_and_oci() -> None:
    """The two families are translated both ways; what has no counterpart stays."""
    for oci in (m.OCI_INDEX, m.OCI_MANIFEST, m.OCI_CONFIG, m.OCI_LAYER, m.OCI_LAYER_GZIP):
        assert to_docker(oci) != oci
        assert to_oci(to_docker(oci)) == oci
        assert to_oci(oci) == oci
    assert to_docker(m.OCI_LAYER_ZSTD) == m.OCI_LAYER_ZSTD
    assert to_oci(m.DOCKER_FOREIGN_LAYER) == m.DOCKER_FOREIGN_LAYER
