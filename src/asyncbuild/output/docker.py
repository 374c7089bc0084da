"""Docker archives: one tar that ``docker load`` and ``podman load`` read, and an OCI layout besides.

BuildKit's docker exporter writes the same (containerd, core/images/archive/exporter.go): an OCI layout
plus ``manifest.json``, whose ``Config`` and ``Layers`` are paths of blobs. Layers stay compressed as they
are; readers detect it. The legacy ``repositories`` file is not written.
"""

from __future__ import annotations

import json

from asyncbuild.output.archive import Archive
from asyncbuild.output.built import BlobPath, BuiltImage
from asyncbuild.output.files import CheckCancelled, never_cancelled
from asyncbuild.output.oci import LAYOUT_FILE, add_blobs, blob_name, encode_index, index_entries


def encode_docker_manifest(image: BuiltImage) -> bytes:
    """The bytes of ``manifest.json``; names without a tag are not among its RepoTags."""
    tags = [name.familiar.partition("@")[0] for name in image.names if name.tag is not None]
    document = {
        "Config": blob_name(image.manifest.config.digest),
        "RepoTags": tags or None,
        "Layers": [blob_name(layer.digest) for layer in image.manifest.layers],
    }
    return json.dumps([document]).encode()


def write_docker_archive(
    image: BuiltImage, blob_path: BlobPath, target: int, check: CheckCancelled = never_cancelled
) -> None:
    """Write the archive to the descriptor ``target``; equal images give equal bytes."""
    archive = Archive(target, check)
    archive.add_bytes("manifest.json", encode_docker_manifest(image))
    archive.add_bytes("oci-layout", LAYOUT_FILE)
    archive.add_bytes("index.json", encode_index(index_entries(image)))
    add_blobs(archive, image, blob_path)
    archive.finish()
