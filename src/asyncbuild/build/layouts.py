"""Images of OCI layouts on this machine (``--build-context name=oci-layout://…``).

A layout is read as it is (OCI image specification, image-layout): ``index.json`` names manifests by the
annotation ``org.opencontainers.image.ref.name``, blobs are files by their digest. What is read is verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncbuild.errors import ImageNotFound, InputError, IntegrityError, RemoteProtocolError
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.manifest import (
    Descriptor,
    Index,
    InvalidManifest,
    Manifest,
    parse_manifest,
)
from asyncbuild.store.store import Store

_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_LARGEST_DOCUMENT = 16 << 20


def take_manifest(layout: Path, identifier: str, store: Store) -> Manifest | Index:
    """As `read_manifest`; the configuration of an image is put into ``store``. Blocks."""
    manifest = read_manifest(layout, identifier)
    if isinstance(manifest, Manifest):
        store.put_blob(read_document(layout, manifest.config.digest))
    return manifest


def read_manifest(layout: Path, identifier: str) -> Manifest | Index:
    """The manifest or index that ``identifier`` (a tag or a digest) names. Blocks.

    `InputError` for a directory that is no layout, `ImageNotFound` for a name that it does not have.
    """
    listed = _listed(layout)
    wanted = _digest(identifier)
    descriptor = None if wanted is not None else _named(layout, listed, identifier)
    digest = wanted or (descriptor.digest if descriptor is not None else None)
    assert digest is not None
    media_type = descriptor.media_type if descriptor is not None else ""
    return _parsed(layout, read_document(layout, digest), media_type)


def blob_file(layout: Path, digest: Digest) -> Path:
    """Where a layout has a blob."""
    return layout / "blobs" / digest.algorithm / digest.hex


def _listed(layout: Path) -> Index:
    try:
        raw = (layout / "index.json").read_bytes()
    except OSError as error:
        raise InputError(f"{layout} is no OCI layout: {error.strerror}: index.json") from error
    found = _parsed(layout, raw, "application/vnd.oci.image.index.v1+json")
    if not isinstance(found, Index):
        raise InputError(f"{layout} is no OCI layout: its index.json is no index")
    return found


def _named(layout: Path, listed: Index, tag: str) -> Descriptor:
    """The entry with the name; of a layout with one entry ``latest`` is that entry."""
    for entry in listed.manifests:
        if _is_called(entry.annotations, tag):
            return entry
    if tag == "latest" and len(listed.manifests) == 1:
        return listed.manifests[0]
    names = [entry.annotations.get(_NAMES[0], str(entry.digest)) for entry in listed.manifests]
    raise ImageNotFound(
        f"the OCI layout {layout} has no image {tag!r}",
        hint=f"it has: {', '.join(names)}" if names else "it is empty",
    )


def _is_called(annotations: Mapping[str, Any], tag: str) -> bool:
    return annotations.get(_NAMES[0]) == tag or annotations.get(_NAMES[1], "").endswith(f":{tag}")


def _digest(identifier: str) -> Digest | None:
    try:
        return Digest.parse(identifier)
    except InvalidDigest:
        return None


def read_document(layout: Path, digest: Digest) -> bytes:
    """A manifest, an index or a configuration, verified. Blocks. Raises `ImageNotFound`, `IntegrityError`
    and `InputError`.
    """
    try:
        with blob_file(layout, digest).open("rb") as file:
            data = file.read(_LARGEST_DOCUMENT + 1)
    except FileNotFoundError:
        raise ImageNotFound(f"the OCI layout {layout} has no blob {digest}") from None
    except OSError as error:
        raise InputError(f"cannot read the OCI layout {layout}: {error.strerror}") from error
    if not digest.matches(data):
        raise IntegrityError(f"the OCI layout {layout}: blob {digest} holds other bytes")
    return data


def _parsed(layout: Path, raw: bytes, media_type: str) -> Manifest | Index:
    try:
        return parse_manifest(raw, media_type)
    except InvalidManifest as error:
        raise RemoteProtocolError(f"the OCI layout {layout}: {error}") from error
