"""The finished image as the writers of this room need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from asyncbuild.errors import UsageError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import (
    DOCKER_MANIFEST,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    to_docker,
    to_oci,
)
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field, replace

BlobPath = Callable[[Digest], Path]
"""Where a layer's blob lies on this machine; the file has exactly the bytes that the digest names."""

CREATED = "org.opencontainers.image.created"


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """One image: its manifest, the bytes of its configuration, and the names that it shall have.

    ``created`` is an RFC 3339 time (the configuration's). ``annotations`` are those of the descriptor
    that points at the manifest; those of the manifest itself are in the manifest.
    """

    manifest: Manifest
    config: bytes
    platform: Platform
    names: tuple[Reference, ...] = ()
    created: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """What an index says of this image: BuildKit's descriptor, with platform and creation time."""
        annotations = dict(self.annotations)
        if self.created is not None:
            annotations.setdefault(CREATED, self.created)
        return replace(
            self.manifest.descriptor,
            platform=self.platform,
            annotations=dict(sorted(annotations.items())),
        )

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The layers, each blob once, in the order of the manifest."""
        return tuple({layer.digest: layer for layer in self.manifest.layers}.values())

    def with_media_types(self, *, docker: bool) -> BuiltImage:
        """The same image with a manifest of docker's media types, or of OCI's.

        Raises `UsageError` for zstd layers, for which docker has no media type.
        """
        wanted = DOCKER_MANIFEST if docker else OCI_MANIFEST
        if self.manifest.media_type == wanted:
            return self
        if docker and any(layer.media_type == OCI_LAYER_ZSTD for layer in self.manifest.layers):
            raise UsageError("docker media types know no zstd layers; use oci-mediatypes=true")
        rename = to_docker if docker else to_oci
        old = self.manifest
        manifest = Manifest.make(
            replace(old.config, media_type=rename(old.config.media_type)),
            tuple(replace(item, media_type=rename(item.media_type)) for item in old.layers),
            media_type=wanted,
            annotations=old.annotations,
        )
        return replace(self, manifest=manifest)
