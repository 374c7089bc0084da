"""A small image of two layers whose blobs are real, for tests that write images somewhere."""

import gzip
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from asyncbuild.image.config import HistoryEntry, ImageConfig, RuntimeConfig
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, Descriptor, Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.output.built import BuiltImage

AMD64 = Platform("linux", "amd64")
CREATED = "2024-05-06T07:08:09Z"


@dataclass(frozen=True)
class Sample:
    """An image, the directory with its layers' blobs, and how to find them."""

    image: BuiltImage
    blobs: Path

    def blob_path(self, digest: Digest) -> Path:
        """Where a layer's blob lies."""
        return self.blobs / digest.hex


def _layer(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o640
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def make_sample(directory: Path, *names: str, text: bytes = b"hello\n") -> Sample:
    """An image with the names given, one gzip and one plain layer, its blobs in ``directory``."""
    directory.mkdir(exist_ok=True)
    tars = [_layer("etc/greeting", text), _layer("big", bytes(range(256)) * 9000)]
    blobs = [gzip.compress(tars[0], mtime=0), tars[1]]
    layers = []
    for media_type, blob in zip((OCI_LAYER_GZIP, OCI_LAYER), blobs, strict=True):
        layers.append(Descriptor(media_type, Digest.of(blob), len(blob)))
        (directory / layers[-1].digest.hex).write_bytes(blob)
    config = ImageConfig(
        AMD64,
        RuntimeConfig(cmd=("/bin/true",), env=("A=b",)),
        tuple(DiffId.of(tar) for tar in tars),
        (
            HistoryEntry("COPY greeting"),
            HistoryEntry("COPY big"),
            HistoryEntry("CMD", empty_layer=True),
        ),
        CREATED,
    ).encode()
    manifest = Manifest.make(Descriptor(OCI_CONFIG, Digest.of(config), len(config)), tuple(layers))
    references = tuple(Reference.parse(name) for name in names)
    return Sample(BuiltImage(manifest, config, AMD64, references, CREATED), directory)
