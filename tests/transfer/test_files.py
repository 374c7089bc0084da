"""Images in files: layouts, archives of several kinds, and files that are none or mean harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncbuild.errors import InputError
from asyncbuild.image.config import ImageConfig
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.registry.bodies import Body
from asyncbuild.transfer.files import Entry, ImageFile, open_image_file

LAYERS = (b"one layer" * 1000, b"another layer" * 1000)


def config(count: int = 2) -> bytes:
    """A configuration of so many layers."""
    diff_ids = tuple(DiffId.of(layer) for layer in LAYERS[:count])
    return ImageConfig(Platform("linux", "amd64"), diff_ids=diff_ids).encode()


def blobs(*data: bytes) -> dict[str, bytes]:
    """Files of a layout."""
    return {f"blobs/sha256/{Digest.of(item).hex}": item for item in data}


def layout(*names: Mapping[str, str]) -> tuple[dict[str, bytes], Manifest]:
    """An OCI layout's files; its image has the names that each mapping of annotations gives."""
    raw = config()
    layers = tuple(Descriptor(OCI_LAYER, Digest.of(data), len(data)) for data in LAYERS)
    manifest = Manifest.make(Descriptor(OCI_CONFIG, Digest.of(raw), len(raw)), layers)
    entries = [
        {**manifest.descriptor.to_json(), "annotations": dict(item)} for item in names or ({},)
    ]
    index = {"schemaVersion": 2, "manifests": entries}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **blobs(raw, manifest.raw, *LAYERS),
    }
    return files, manifest


def tar(files: Mapping[str, bytes | str], more: Iterable[tarfile.TarInfo] = ()) -> bytes:
    """A tar; a text is the target of a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        for member in more:
            archive.addfile(member)
    return buffer.getvalue()


def docker_save(*, tags: Any = ("r.example/app:1",), **changes: Any) -> dict[str, bytes | str]:
    """The files of ``docker save`` before it wrote OCI layouts; the second layer is a link."""
    raw = config()
    listed = {"Config": "c.json", "RepoTags": tags, "Layers": ["a/layer.tar", "b/layer.tar"]}
    return {
        "c.json": raw,
        "a/layer.tar": LAYERS[0],
        "x/layer.tar": LAYERS[1],
        "b/layer.tar": "../x/layer.tar",
        "manifest.json": json.dumps([{**listed, **changes}]).encode(),
    }


def write(directory: Path, data: bytes | Mapping[str, bytes]) -> str:
    """A file, or a directory of files; its path."""
    place = directory / "image"
    if isinstance(data, bytes):
        place.write_bytes(data)
        return str(place)
    for name, content in data.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return str(place)


def read(body: Body, start: int = 0) -> bytes:
    """All that a body has from ``start`` on."""

    async def main() -> bytes:
        with closing(body.read(start)) as reading:
            parts = []
            while chunk := await reading.next_chunk():
                parts.append(chunk)
        return b"".join(parts)

    return trio.run(main)


def check(file: ImageFile) -> Manifest:
    """The only image's manifest, after a look at everything that it names."""
    entry = file.choose(None)
    manifest = file.fetched(entry.descriptor.digest).manifest
    assert isinstance(manifest, Manifest)
    assert file.document(manifest.config.digest) == config()
    for layer, plain in zip(manifest.layers, LAYERS, strict=True):
        data = read(file.body(layer))
        assert layer.digest.matches(data)
        assert len(data) == layer.size
        assert (gzip.decompress(data) if layer.media_type == DOCKER_LAYER_GZIP else data) == plain
        assert read(file.body(layer), 100) == data[100:]
    return manifest


@pytest.mark.parametrize("form", ["directory", "tar", "tar.gz"])
def test_layouts(form: str, shm_path: Path) -> None:
    """A layout is read where it is, as directory, as tar, as compressed tar."""
    files, manifest = layout()
    data: Any = {"directory": files, "tar": tar(files), "tar.gz": gzip.compress(tar(files))}[form]
    file = open_image_file(write(shm_path, data))
    assert check(file) == manifest
    spooled = {piece.path for piece in file.pieces.values()}
    file.close()
    if form == "tar.gz":
        assert [path for path in spooled if os.path.exists(path)] == []


def test_docker_save(shm_path: Path) -> None:
    """Its layers are compressed, always to the same bytes, and get docker's types."""
    path = write(shm_path, tar(docker_save()))
    made = []
    for _ in range(2):
        file = open_image_file(path)
        manifest = check(file)
        assert manifest.media_type == DOCKER_MANIFEST
        assert file.choose(None).references == (Reference.parse("r.example/app:1"),)
        made.append(manifest)
        file.close()
    assert made[0] == made[1]


def test_layers_that_are_compressed_stay(shm_path: Path) -> None:
    """What is compressed is sent as it is; zstd makes an OCI image."""
    files = docker_save()
    files["a/layer.tar"] = packed = gzip.compress(LAYERS[0], mtime=0)
    files["x/layer.tar"] = b"\x28\xb5\x2f\xfd and so on"
    file = open_image_file(write(shm_path, tar(files)))
    manifest = file.fetched(file.choose(None).descriptor.digest).manifest
    assert isinstance(manifest, Manifest)
    assert read(file.body(manifest.layers[0])) == packed
    assert manifest.media_type == OCI_MANIFEST
    assert manifest.layers[1].media_type == OCI_LAYER_ZSTD
    file.close()


def test_names(shm_path: Path) -> None:
    """Names with a registry say where to push to; others only which image is meant."""
    files, manifest = layout(
        {"io.containerd.image.name": "r.example/app:1", "org.opencontainers.image.ref.name": "1"},
        {"org.opencontainers.image.ref.name": "two"},
    )
    file = open_image_file(write(shm_path, files))
    entry = file.choose(None)
    assert entry.names == ("r.example/app:1", "1", "two")
    assert entry.references == (Reference.parse("r.example/app:1"),)
    for name in ("r.example/app:1", "1", "two", str(manifest.digest)):
        assert file.choose(name).descriptor.digest == manifest.digest
    with pytest.raises(InputError, match="no image three"):
        file.choose("three")


def test_several_images(shm_path: Path) -> None:
    """Which one is meant must be said; the hint lists them."""
    one, two = (Descriptor(OCI_MANIFEST, Digest.of(name), 1) for name in (b"1", b"2"))
    file = ImageFile("f", (Entry(one, ("a:1",)), Entry(two, ("a:2",))))
    assert file.choose("2").descriptor == two
    with pytest.raises(InputError, match="2 images") as caught:
        file.choose(None)
    assert caught.value.hint == "choose one with --image: a:1, a:2"
    with pytest.raises(InputError, match="no image"):
        ImageFile("f").choose(None)


def test_an_index_in_a_layout(shm_path: Path) -> None:
    """A multi-platform image is an index there too."""
    files, manifest = layout()
    index = Index.make((manifest.descriptor,))
    listed = {"manifests": [Descriptor(index.media_type, index.digest, len(index.raw)).to_json()]}
    files |= {"index.json": json.dumps(listed).encode(), **blobs(index.raw)}
    file = open_image_file(write(shm_path, files))
    assert file.fetched(file.choose(None).descriptor.digest).manifest == index
    assert file.fetched(manifest.digest).manifest == manifest


def bad_member(kind: bytes, name: str, **more: Any) -> tarfile.TarInfo:
    """A member that is no plain file."""
    member = tarfile.TarInfo(name)
    member.type = kind
    for key, value in more.items():
        setattr(member, key, value)
    return member


FILES, MANIFEST = layout()
BAD = {
    "nothing": b"",
    "no tar": b"certainly no tar" * 1000,
    "compressed nonsense": b"\x1f\x8bnonsense",
    "a tar of nothing": tar({}),
    "a tar of other things": tar({"a": b"b"}),
    "a directory of other things": {"a": b"b"},
    "a layout without an index": {"oci-layout": b"{}"},
    "an index that is no JSON": {**FILES, "index.json": b"{"},
    "an index that is deep": {**FILES, "index.json": b"[" * 100_000},
    "an index that is no index": {**FILES, "index.json": b"[]"},
    "an index of nonsense": {**FILES, "index.json": b'{"manifests": [3]}'},
    "docker: no list": tar({"manifest.json": b"{}"}),
    "docker: no configuration": tar({"manifest.json": b'[{"Config": "c", "Layers": []}]'}),
    "docker: no layers": tar({**docker_save(Layers=None)}),
    "docker: a layer that is missing": tar({**docker_save(Layers=["none", "b/layer.tar"])}),
    "docker: too few layers": tar({**docker_save(Layers=["a/layer.tar"])}),
    "docker: a damaged configuration": tar({**docker_save(), "c.json": b"[]"}),
    "docker: a name that is no text": tar({**docker_save(Config={"a": 1})}),
    "docker: a link out of the archive": tar(
        {**docker_save(), "b/layer.tar": "../../../../etc/passwd"}
    ),
    "docker: a link to itself": tar({**docker_save(), "b/layer.tar": "layer.tar"}),
    "docker: a hard link out of the archive": tar(
        {key: value for key, value in docker_save().items() if key != "b/layer.tar"},
        [bad_member(tarfile.LNKTYPE, "b/layer.tar", linkname="/etc/passwd")],
    ),
    "docker: a device": tar(
        {key: value for key, value in docker_save().items() if key != "b/layer.tar"},
        [bad_member(tarfile.CHRTYPE, "b/layer.tar", devmajor=1, devminor=3)],
    ),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_files_that_are_no_images(data: bytes | Mapping[str, bytes], shm_path: Path) -> None:
    """An `InputError` says what is wrong, and nothing is left."""
    before = set(Path("/tmp").glob("asyncbuild-*"))
    with pytest.raises(InputError):
        open_image_file(write(shm_path, data))
    assert set(Path("/tmp").glob("asyncbuild-*")) <= before


def test_a_file_that_is_missing() -> None:
    """It is named."""
    with pytest.raises(InputError, match="/nonexistent"):
        open_image_file("/nonexistent")


def test_blobs_that_lead_elsewhere(shm_path: Path) -> None:
    """A blob that is a link, a fifo or another size is not sent anywhere."""
    path = Path(write(shm_path, FILES))
    file = open_image_file(str(path))
    layer, other = MANIFEST.layers
    blob = path / "blobs/sha256" / layer.digest.hex
    blob.unlink()
    (shm_path / "secret").write_bytes(LAYERS[0])
    blob.symlink_to(shm_path / "secret")
    with pytest.raises(InputError):
        read(file.body(layer))
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(InputError):
        read(file.body(layer))
    (path / "blobs/sha256" / other.digest.hex).write_bytes(b"short")
    with pytest.raises(InputError, match="5 bytes"):
        file.body(other)
    blob.unlink()
    with pytest.raises(InputError, match="no blob"):
        file.body(layer)


def test_documents_that_are_damaged(shm_path: Path) -> None:
    """Manifests and configurations are compared with their digests, and bounded."""
    path = Path(write(shm_path, FILES))
    file = open_image_file(str(path))
    blob = path / "blobs/sha256" / MANIFEST.digest.hex
    blob.write_bytes(MANIFEST.raw.replace(b"sha256", b"sha512"))
    with pytest.raises(InputError, match="other bytes"):
        file.fetched(MANIFEST.digest)
    with blob.open("wb") as large:
        large.truncate(1 << 30)
    with pytest.raises(InputError, match="no document"):
        file.fetched(MANIFEST.digest)
    config_blob = path / "blobs/sha256" / MANIFEST.config.digest.hex
    digest = Digest.of(config_blob.read_bytes())
    with pytest.raises(InputError, match=r"neither|schemaVersion"):
        file.fetched(digest)


def test_a_file_that_shrinks_while_it_is_sent(shm_path: Path) -> None:
    """It is noticed."""
    path = Path(write(shm_path, FILES))
    body = open_image_file(str(path)).body(MANIFEST.layers[0])
    (path / "blobs/sha256" / MANIFEST.layers[0].digest.hex).write_bytes(b"short")
    with pytest.raises(InputError, match="shorter"):
        read(body)
