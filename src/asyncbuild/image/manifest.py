"""Descriptors, manifests and indexes. A manifest keeps its raw bytes: its digest is of those."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.platform import Platform
from asyncbuild.records import dataclass, field

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"

INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)

_TO_DOCKER = {
    OCI_INDEX: DOCKER_INDEX,
    OCI_MANIFEST: DOCKER_MANIFEST,
    OCI_CONFIG: DOCKER_CONFIG,
    OCI_LAYER: DOCKER_LAYER,
    OCI_LAYER_GZIP: DOCKER_LAYER_GZIP,
}
_TO_OCI = {docker: oci for oci, docker in _TO_DOCKER.items()}


class InvalidManifest(ValueError):
    """JSON that is not the manifest or index that its media type promises."""


def to_oci(media_type: str) -> str:
    """The OCI name of a docker media type; other types are returned as they are."""
    return _TO_OCI.get(media_type, media_type)


def to_docker(media_type: str) -> str:
    """The docker name of an OCI media type; other types are returned as they are."""
    return _TO_DOCKER.get(media_type, media_type)


def is_docker(media_type: str) -> bool:
    """Whether a media type is one of docker's."""
    return media_type.startswith("application/vnd.docker.")


def is_foreign(descriptor: Descriptor) -> bool:
    """Whether a layer is not to be passed on to other registries (Windows' base layers)."""
    media_type = descriptor.media_type
    return media_type == DOCKER_FOREIGN_LAYER or media_type.startswith(_OCI_FOREIGN)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a blob: its type, digest, size in bytes, and more."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()
    artifact_type: str = ""

    @classmethod
    def from_json(cls, value: object) -> Descriptor:
        """Decode one; `InvalidManifest` names the field that is wrong."""
        if not isinstance(value, dict):
            raise InvalidManifest("a descriptor is not an object")
        size = value.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidManifest(f"a descriptor's size is {size!r}")
        try:
            digest = Digest.parse(str(value.get("digest", "")))
        except InvalidDigest as error:
            raise InvalidManifest(f"a descriptor's digest: {error}") from None
        platform = value.get("platform")
        urls = value.get("urls")
        if not isinstance(urls, list | None):
            raise InvalidManifest("a descriptor's urls is not a list")
        return cls(
            media_type=str(value.get("mediaType", "")),
            digest=digest,
            size=size,
            platform=Platform.from_json(platform) if isinstance(platform, dict) else None,
            annotations=_strings(value.get("annotations"), "annotations"),
            urls=tuple(str(url) for url in urls or ()),
            artifact_type=str(value.get("artifactType", "")),
        )

    def to_json(self) -> dict[str, Any]:
        """Encode with the fields in the order that the specification lists them."""
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        return value


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest: its raw bytes and what they say."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        config: Descriptor,
        layers: tuple[Descriptor, ...],
        *,
        media_type: str = OCI_MANIFEST,
        annotations: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Encode a new manifest; equal arguments give equal bytes."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        if annotations:
            document["annotations"] = dict(sorted(annotations.items()))
        return cls(_encode(document), media_type, config, layers, dict(annotations or {}))

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes."""
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        """A descriptor that points at this manifest."""
        return Descriptor(self.media_type, self.digest, len(self.raw))


@dataclass(frozen=True, slots=True)
class Index:
    """An image index (manifest list): its raw bytes and the descriptors that it lists."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        manifests: tuple[Descriptor, ...],
        *,
        media_type: str = OCI_INDEX,
        annotations: Mapping[str, str] | None = None,
    ) -> Index:
        """Encode a new index; equal arguments give equal bytes."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": [entry.to_json() for entry in manifests],
        }
        if annotations:
            document["annotations"] = dict(sorted(annotations.items()))
        return cls(_encode(document), media_type, manifests, dict(annotations or {}))

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes."""
        return Digest.of(self.raw)

    def choose(self, platform: Platform) -> Descriptor | None:
        """The entry that suits ``platform`` best; attestations and other artifacts never match.

        Of equal entries the first; a lower variant of the architecture where its own is missing.
        """
        images = [
            entry
            for entry in self.manifests
            if entry.media_type in MANIFEST_TYPES
            and "vnd.docker.reference.type" not in entry.annotations
        ]
        for candidate in platform.candidates:
            for entry in images:
                if entry.platform is not None and candidate.accepts(entry.platform):
                    return entry
        if len(images) == 1 and images[0].platform is None:
            return images[0]
        return None


def parse_manifest(raw: bytes, media_type: str = "") -> Manifest | Index:
    """Decode what a registry answered; ``media_type`` is its Content-Type, if it sent one.

    Raises `InvalidManifest` for anything that is not an image manifest or index (schema 1 included).
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidManifest("not a JSON object")
    declared = str(document.get("mediaType") or media_type.partition(";")[0].strip())
    if document.get("schemaVersion") != 2:
        raise InvalidManifest(f"schemaVersion is {document.get('schemaVersion')!r}, not 2")
    annotations = _strings(document.get("annotations"), "annotations")
    if "manifests" in document and "layers" not in document:
        _check_kind(document, MANIFEST_TYPES)
        declared = declared if declared in INDEX_TYPES else OCI_INDEX
        entries = _descriptors(document["manifests"], "manifests")
        return Index(raw, declared, entries, annotations)
    if "layers" in document and "manifests" not in document:
        _check_kind(document, INDEX_TYPES)
        declared = declared if declared in MANIFEST_TYPES else OCI_MANIFEST
        layers = _descriptors(document["layers"], "layers")
        config = Descriptor.from_json(document.get("config"))
        return Manifest(raw, declared, config, layers, annotations)
    raise InvalidManifest("neither an image manifest (layers) nor an index (manifests)")


def _check_kind(document: Mapping[str, Any], others: tuple[str, ...]) -> None:
    """Refuse a document that calls itself one of ``others``: two tools would read it as two images
    (image specification, CVE-2021-41190).
    """
    if document.get("mediaType") in others:
        raise InvalidManifest(f"its fields are not those of its mediaType {document['mediaType']}")


def _descriptors(value: object, what: str) -> tuple[Descriptor, ...]:
    if not isinstance(value, list):
        raise InvalidManifest(f"{what} is not a list")
    return tuple(Descriptor.from_json(item) for item in value)


def _strings(value: object, what: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidManifest(f"{what} is not an object")
    return {str(key): str(item) for key, item in value.items()}


def _encode(document: dict[str, Any]) -> bytes:
    # A lone surrogate (a byte of an argument that is not UTF-8) becomes its JSON escape.
    return json.dumps(document, indent=2, ensure_ascii=False).encode(errors="backslashreplace")
