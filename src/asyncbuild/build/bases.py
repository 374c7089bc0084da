"""What a registry says of a base image, checked and put into words."""

from __future__ import annotations

from asyncbuild.errors import ImageNotFound, RemoteProtocolError
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.manifest import (
    DOCKER_CONFIG,
    OCI_CONFIG,
    OCI_MANIFEST,
    Index,
    Manifest,
)
from asyncbuild.image.reference import Reference
from asyncbuild.registry.protocol import printable

_WORDS = 300
"""The most characters that an error repeats of what a registry sent."""


def no_such_image(reference: Reference, error: ImageNotFound) -> ImageNotFound:
    """``error`` in the words of a person who wrote a FROM."""
    return ImageNotFound(
        f"there is no image {reference.familiar}",
        exchange=error.exchange,
        hint="check its name and tag; some registries say this of images that need a login",
    )


def platforms(index: Index) -> str:
    """The platforms that an index has images for, as a text."""
    return ", ".join(
        sorted({str(entry.platform) for entry in index.manifests if entry.platform is not None})
    )


def parse_config(reference: Reference, manifest: Manifest, raw: bytes) -> ImageConfig:
    """The configuration of an image; `RemoteProtocolError` if it is none, or another image's, or if this is
    an artifact: OCI manifests say so by the configuration's type (image specification, "Guidelines for
    Artifact Usage").
    """
    kind = manifest.config.media_type
    if manifest.media_type == OCI_MANIFEST and kind not in (OCI_CONFIG, DOCKER_CONFIG, ""):
        raise RemoteProtocolError(
            f"{reference} is no image: its configuration is of type {printable(kind, _WORDS)}",
            hint="charts, signatures, and other artifacts have no files to build upon",
        )
    try:
        config = ImageConfig.parse(raw)
    except InvalidConfig as error:
        text = printable(str(error), _WORDS)
        raise RemoteProtocolError(f"{reference}: its configuration: {text}") from None
    if len(config.diff_ids) != len(manifest.layers):
        raise RemoteProtocolError(
            f"{reference}: {len(manifest.layers)} layers and {len(config.diff_ids)} diff ids"
        )
    return config
