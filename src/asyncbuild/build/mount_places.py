"""Where contents of cache mounts are saved: under tags in a registry, or in a directory, an OCI layout.

Both keep a manifest with one layer, the content, and an empty configuration; annotations hold the rest. The
directory is written as one of base images is (`asyncbuild.cache.images`): many builds may use it at once,
and ``asyncbuild cache prune DIR`` makes it smaller.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import trio

from asyncbuild.build.job import Job
from asyncbuild.build.request import MountPlace
from asyncbuild.cache.images import DamagedEntry, ImageDirectory
from asyncbuild.errors import ImageNotFound, RemoteProtocolError, StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor, Index, Manifest
from asyncbuild.registry.bodies import Body, BytesBody, FileBody
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.upload import UploadSession

_EMPTY = b"{}"
_CONFIG = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(_EMPTY), len(_EMPTY))
_PIECE = 1 << 20
_PAUSE = 0.05
_ROUNDS = 3


class SavedMounts(Protocol):
    """Contents by tag. Everything raises `AsyncbuildError` or OSError."""

    @property
    def name(self) -> str:
        """What people call it."""

    async def find(self, tag: str) -> Manifest | None:
        """What is saved under ``tag``; None if nothing."""

    def open(self, layer: Descriptor) -> AbstractAsyncContextManager[AsyncIterable[bytes]]:
        """The bytes of a layer; the reader verifies them."""

    async def put(
        self, tag: str, layer: Descriptor, blob: Path, annotations: Mapping[str, str]
    ) -> None:
        """Save the layer in the file ``blob`` under ``tag``, in place of what had the tag."""


def saved_mounts(job: Job, place: MountPlace) -> SavedMounts:
    """What is at ``place``."""
    if place.path is not None:
        return DirectoryMounts(place.path)
    assert place.reference is not None
    client = job.registries.client(place.reference.registry)
    return RegistryMounts(client, place.reference.repository)


class RegistryMounts:
    """In a repository."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self.name = f"{client.registry}/{repository}"
        self._client = client
        self._repository = repository

    async def find(self, tag: str) -> Manifest | None:
        """One request."""
        try:
            manifest = (await self._client.get_manifest(self._repository, tag)).manifest
        except ImageNotFound:
            return None
        if isinstance(manifest, Index):
            raise RemoteProtocolError(f"{self._repository}:{tag} is an index and no cache mount")
        return manifest

    def open(self, layer: Descriptor) -> AbstractAsyncContextManager[AsyncIterable[bytes]]:
        """One download."""
        return self._client.open_blob(self._repository, layer)

    async def put(
        self, tag: str, layer: Descriptor, blob: Path, annotations: Mapping[str, str]
    ) -> None:
        """The layer, the configuration, and then the manifest."""
        await self._send(FileBody(str(blob), layer.size), layer.digest)
        await self._send(BytesBody(_EMPTY), _CONFIG.digest)
        manifest = Manifest.make(_CONFIG, (layer,), annotations=annotations)
        await self._client.put_manifest(self._repository, tag, manifest.raw, manifest.media_type)

    async def _send(self, body: Body, digest: Digest) -> None:
        answer = await self._client.mount_or_start_upload(self._repository, digest)
        if isinstance(answer, UploadSession):
            await answer.put(body, digest)


class DirectoryMounts:
    """In a directory, which is made when something is saved."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._directory = ImageDirectory(path)

    async def find(self, tag: str) -> Manifest | None:
        """Read from the directory's index, without a lock."""
        return await trio.to_thread.run_sync(self._find, tag)

    @asynccontextmanager
    async def open(self, layer: Descriptor) -> AsyncIterator[AsyncIterable[bytes]]:
        """The file of a blob."""
        path = self._directory.blob(layer.digest)
        file = await trio.to_thread.run_sync(lambda: path.open("rb"))
        with file:
            yield _pieces(file)

    async def put(
        self, tag: str, layer: Descriptor, blob: Path, annotations: Mapping[str, str]
    ) -> None:
        """Blobs first, the index last; blobs that somebody prunes meanwhile are put there again. What was
        saved before goes when no build can be about to name it any more.
        """
        manifest = Manifest.make(_CONFIG, (layer,), annotations=annotations)
        for _ in range(_ROUNDS):
            while True:
                if await trio.to_thread.run_sync(self._take_in, layer, blob):
                    break
                await trio.sleep(_PAUSE)  # another build writes the same blob
            if await trio.to_thread.run_sync(self._list, tag, manifest):
                await trio.to_thread.run_sync(self._directory.prune, 0.0, time.time())
                return
        raise StoreError(f"blobs vanish from {self.name} while they are put there")

    def _find(self, tag: str) -> Manifest | None:
        if not (self._directory.path / "index.json").exists():
            return None
        for entry in self._directory.entries():
            if entry.name == tag:
                try:
                    found = self._directory.manifest(entry.descriptor.digest)
                except DamagedEntry as error:
                    raise StoreError(f"{self.name}: {error}") from None
                return found if isinstance(found, Manifest) else None
        return None

    def _take_in(self, layer: Descriptor, blob: Path) -> bool:
        """Copy the blob, unless it is there; False while another build does that."""
        self._directory.prepare()
        self._directory.sweep(time.time())
        if self._directory.has(layer):
            return True
        reserved = self._directory.reserve(layer.digest)
        if reserved is None:
            return False
        try:
            shutil.copyfile(blob, reserved.path)
            reserved.commit()
        finally:
            reserved.release()
        return True

    def _list(self, tag: str, manifest: Manifest) -> bool:
        for document in (_EMPTY, manifest.raw):
            self._directory.put(document)
        listed = manifest.descriptor
        needed = (*manifest.layers, manifest.config, listed)
        self._directory.keep(needed)
        return self._directory.add(tag, listed, needed, time.time())


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await trio.to_thread.run_sync(file.read, _PIECE):
        yield piece
