"""OCI image layouts (OCI image specification, "image-layout"), as a directory or as one tar.

``index.json`` names images as BuildKit does: ``org.opencontainers.image.ref.name`` is the tag,
``io.containerd.image.name`` the whole name (client/ociindex and containerd's archive exporter).

A directory is updated, never replaced: other images in it stay, an entry of the same name gives way, and
``index.json`` appears last. Blobs are copied, not hard-linked: a ``chown -R`` of the layout must not
reach into the store.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asyncbuild.errors import InputError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_INDEX, Descriptor
from asyncbuild.image.reference import Reference
from asyncbuild.output.archive import Archive
from asyncbuild.output.built import BlobPath, BuiltImage
from asyncbuild.output.files import (
    CheckCancelled,
    appearing,
    copy_bytes,
    disk_errors,
    never_cancelled,
    open_blob,
    sweep_partials,
    write_all,
)
from asyncbuild.records import dataclass, replace

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'


def blob_name(digest: Digest) -> str:
    """A blob's path in a layout."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def index_entries(image: BuiltImage) -> tuple[Descriptor, ...]:
    """The descriptors that ``index.json`` gets: one for each name, one without a name if there is none."""
    plain = image.descriptor
    return tuple(_named(plain, name) for name in image.names) or (plain,)


def _named(descriptor: Descriptor, name: Reference) -> Descriptor:
    # A name without a tag keeps its whole text as ref name, as containerd's exporter does.
    names = {REF_NAME: name.tag or str(name), IMAGE_NAME: str(name)}
    return replace(descriptor, annotations={**descriptor.annotations, **names})


def write_oci_archive(
    image: BuiltImage, blob_path: BlobPath, target: int, check: CheckCancelled = never_cancelled
) -> None:
    """Write the layout as a tar to the descriptor ``target``; equal images give equal bytes."""
    archive = Archive(target, check)
    archive.add_bytes("oci-layout", LAYOUT_FILE)
    archive.add_bytes("index.json", encode_index(index_entries(image)))
    add_blobs(archive, image, blob_path)
    archive.finish()


def encode_index(entries: tuple[Descriptor, ...]) -> bytes:
    """The bytes of a new ``index.json``."""
    return _encode_index({}, [entry.to_json() for entry in entries])


def add_blobs(archive: Archive, image: BuiltImage, blob_path: BlobPath) -> None:
    """Add ``blobs/`` with manifest, configuration and layers, each once."""
    own = {image.manifest.digest: image.manifest.raw, image.manifest.config.digest: image.config}
    layers = {layer.digest: layer.size for layer in image.blobs}
    archive.add_directory("blobs/")
    for algorithm in sorted({digest.algorithm for digest in (*own, *layers)}):
        archive.add_directory(f"blobs/{algorithm}/")
    for digest, data in own.items():
        archive.add_bytes(blob_name(digest), data)
    for digest, size in layers.items():
        archive.add_blob(blob_name(digest), blob_path(digest), size)


def write_oci_directory(
    image: BuiltImage,
    blob_path: BlobPath,
    directory: Path,
    check: CheckCancelled = never_cancelled,
) -> None:
    """Put the image into the layout at ``directory``, which is made if it does not exist.

    An image without a name is called ``latest``, as BuildKit's client does for directories. Raises
    `InputError` for a directory with other things in it, `StoreError` for the disk; a failure removes
    what was added.
    """
    with disk_errors(f"dest={directory}"), _Layout.locked(directory, check) as layout:
        entries = index_entries(image)
        if not image.names:
            latest = {**image.descriptor.annotations, REF_NAME: "latest"}
            entries = (replace(image.descriptor, annotations=latest),)
        for layer in image.blobs:
            layout.add_blob(layer.digest, blob_path(layer.digest), layer.size)
        layout.add_bytes(image.manifest.config.digest, image.config)
        layout.add_bytes(image.manifest.digest, image.manifest.raw)
        layout.finish(entries)


@dataclass(slots=True)
class _Layout:
    """A layout directory that is locked, and what was added to it so far."""

    directory: Path
    check: CheckCancelled
    old_index: dict[str, Any]
    added: list[Path]

    @classmethod
    @contextlib.contextmanager
    def locked(cls, directory: Path, check: CheckCancelled) -> Iterator[_Layout]:
        existed = directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        added = [] if existed else [directory]
        with _lock(directory, check):
            for place in (directory, *directory.glob("blobs/*/")):
                sweep_partials(place)
            try:
                old_index = _read_index(directory)
                yield cls(directory, check, old_index, added)
            except BaseException:
                for path in reversed(added):
                    with contextlib.suppress(OSError):
                        path.rmdir() if path.is_dir() else path.unlink()
                raise

    def add_blob(self, digest: Digest, path: Path, size: int) -> None:
        """Copy a blob here unless it is here with the same size."""
        with open_blob(path, size) as source:
            place = self._place(digest, size)
            if place is not None:
                with appearing(place) as target:
                    copy_bytes(source, target, size, self.check)
                self.added.append(place)

    def add_bytes(self, digest: Digest, data: bytes) -> None:
        """Write a small blob unless it is here with the same size."""
        place = self._place(digest, len(data))
        if place is not None:
            with appearing(place) as target:
                write_all(target, data)
            self.added.append(place)

    def _place(self, digest: Digest, size: int) -> Path | None:
        self.check()
        place = self.directory / blob_name(digest)
        for parent in (place.parent.parent, place.parent):
            with contextlib.suppress(FileExistsError):
                parent.mkdir()
                self.added.append(parent)
        try:
            if place.stat().st_size == size:
                return None
        except FileNotFoundError:
            pass
        return place

    def finish(self, entries: tuple[Descriptor, ...]) -> None:
        """Write ``oci-layout`` and, last, the index with these entries in it."""
        kept = [
            item
            for item in self.old_index.get("manifests", [])
            if not any(_same_name(item, entry) for entry in entries)
        ]
        data = _encode_index(self.old_index, [*kept, *(entry.to_json() for entry in entries)])
        marker = self.directory / "oci-layout"
        if not marker.exists():
            with appearing(marker) as target:
                write_all(target, LAYOUT_FILE)
            self.added.append(marker)
        with appearing(self.directory / "index.json") as target:
            write_all(target, data)


def _same_name(old: object, new: Descriptor) -> bool:
    """Whether an old entry gives way: the same tag and name, or the same tag without a name."""
    annotations = old.get("annotations") if isinstance(old, dict) else None
    if not isinstance(annotations, dict) or annotations.get(REF_NAME) is None:
        return False
    same_tag = annotations[REF_NAME] == new.annotations.get(REF_NAME)
    return same_tag and annotations.get(IMAGE_NAME) in (None, new.annotations.get(IMAGE_NAME))


def _read_index(directory: Path) -> dict[str, Any]:
    """The old index with all that we do not know in it; ``{}`` for an empty directory."""
    if not (directory / "oci-layout").exists():
        foreign = sorted(set(os.listdir(directory)) - {"blobs", "index.json", "lost+found"})
        if foreign:
            raise InputError(
                f"dest={directory} is neither empty nor an OCI layout: it holds {foreign[0]!r}",
                hint="name a directory of its own, such as dest=image,tar=false",
            )
    try:
        index = json.loads((directory / "index.json").read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{directory}/index.json is not JSON: {error}") from None
    if not isinstance(index, dict) or not isinstance(index.get("manifests", []), list):
        raise InputError(f"{directory}/index.json is not an image index")
    return index


def _encode_index(old: Mapping[str, Any], manifests: list[Any]) -> bytes:
    fresh = {"schemaVersion": 2, "mediaType": OCI_INDEX}
    return json.dumps({**fresh, **old, "manifests": manifests}, indent=2).encode() + b"\n"


@contextlib.contextmanager
def _lock(directory: Path, check: CheckCancelled) -> Iterator[None]:
    """Hold the directory's lock: two builds that write one layout do so one after the other."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            check()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)
