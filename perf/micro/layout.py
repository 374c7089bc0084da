"""``python -m perf.micro.layout DIRECTORY``: makes an OCI layout of the gzip'ed tar ``DIRECTORY/layer``."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path

_PIECE = 1 << 20


def _digest(path: Path, *, inflated: bool = False) -> str:
    found = hashlib.sha256()
    with gzip.open(path) if inflated else path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return f"sha256:{found.hexdigest()}"


def make_layout(directory: Path) -> None:
    """The layer becomes the one layer of an image with the reference ``gib``."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    layer = directory / "layer"
    diff_id, digest, size = _digest(layer, inflated=True), _digest(layer), layer.stat().st_size
    layer.rename(blobs / digest.partition(":")[2])

    def put(kind: str, document: object) -> dict[str, object]:
        raw = json.dumps(document).encode()
        name = hashlib.sha256(raw).hexdigest()
        (blobs / name).write_bytes(raw)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(raw)}

    oci = "application/vnd.oci.image"
    root = {"type": "layers", "diff_ids": [diff_id]}
    config = put(f"{oci}.config.v1+json", {"architecture": "amd64", "os": "linux", "rootfs": root})
    kind = f"{oci}.layer.v1.tar+gzip"
    described = [{"mediaType": kind, "digest": digest, "size": size}]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": config,
        "layers": described,
    }
    entry = put(f"{oci}.manifest.v1+json", manifest)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "gib"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


if __name__ == "__main__":
    make_layout(Path(sys.argv[1]))
