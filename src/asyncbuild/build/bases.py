"""What a registry says of a base image, checked and put into words."""

from __future__ import annotations

from asyncbuild.errors import ImageNotFound, RemoteProtocolError
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.manifest import Index, Manifest
from asyncbuild.image.reference import Reference


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
    """The configuration of an image; `RemoteProtocolError` if it is none, or another image's."""
    try:
        config = ImageConfig.parse(raw)
    except InvalidConfig as error:
        raise RemoteProtocolError(f"{reference}: its configuration: {error}") from None
    if len(config.diff_ids) != len(manifest.layers):
        raise RemoteProtocolError(
            f"{reference}: {len(manifest.layers)} layers and {len(config.diff_ids)} diff ids"
        )
    return config
