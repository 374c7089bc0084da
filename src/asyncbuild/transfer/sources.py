"""Where an image is taken from: its manifests, its blobs, and where these could be mounted from."""

from __future__ import annotations

import contextlib
from typing import Protocol

import trio

from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field
from asyncbuild.registry.bodies import Body
from asyncbuild.registry.client import Fetched, RegistryClient

_CHUNKS_AHEAD = 4


class Source(Protocol):
    """A place that has an image, whole."""

    async def manifest(self, digest: Digest) -> Fetched:
        """A manifest or index of it; raises `ImageNotFound` or `InputError`."""

    def body(self, descriptor: Descriptor) -> Body:
        """A blob of it, as what a request carries; its digest is the receiver's to check."""

    def home(self, descriptor: Descriptor) -> Reference | None:
        """The repository that has the blob, for registries that can mount it; None for files."""


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """A repository of a registry. Blobs are fetched by tasks of ``nursery`` while they are sent on."""

    client: RegistryClient
    reference: Reference
    nursery: trio.Nursery = field(repr=False)

    async def manifest(self, digest: Digest) -> Fetched:
        """A manifest of the repository."""
        return await self.client.get_manifest(self.reference.repository, digest)

    def body(self, descriptor: Descriptor) -> Body:
        """A blob of the repository, streamed."""
        return RemoteBody(self.client, self.reference.repository, descriptor, self.nursery)

    def home(self, descriptor: Descriptor) -> Reference | None:  # noqa: ARG002
        """The repository."""
        return self.reference


@dataclass(frozen=True, slots=True)
class RemoteBody:
    """A blob of a registry as what a request to another one carries: nothing of it is kept here."""

    client: RegistryClient
    repository: str
    descriptor: Descriptor
    nursery: trio.Nursery = field(repr=False)

    @property
    def size(self) -> int:
        """As the descriptor says."""
        return self.descriptor.size

    @property
    def replayable(self) -> bool:
        """The registry is asked again."""
        return True

    def read(self, start: int = 0) -> _RemoteReading:
        """A download from byte ``start`` on; it begins when the first chunk is wanted."""
        return _RemoteReading(self, start)


class _RemoteReading:
    """A download that runs a few chunks ahead of the upload that it feeds."""

    def __init__(self, body: RemoteBody, start: int) -> None:
        self._body = body
        self._start = start
        self._scope = trio.CancelScope()
        self._chunks: trio.MemoryReceiveChannel[bytes | AsyncbuildError] | None = None

    async def next_chunk(self) -> bytes:
        """The next bytes; raises what the download raises."""
        if self._chunks is None:
            sending, self._chunks = trio.open_memory_channel[bytes | AsyncbuildError](_CHUNKS_AHEAD)
            self._body.nursery.start_soon(self._download, sending)
        try:
            item = await self._chunks.receive()
        except trio.EndOfChannel:
            return b""
        if isinstance(item, AsyncbuildError):
            raise item
        return item

    async def _download(self, sending: trio.MemorySendChannel[bytes | AsyncbuildError]) -> None:
        body = self._body
        with self._scope, contextlib.suppress(trio.BrokenResourceError):
            async with sending:
                try:
                    opened = body.client.open_blob(
                        body.repository, body.descriptor, start=self._start
                    )
                    async with opened as chunks:
                        async for chunk in chunks:
                            await sending.send(chunk)
                except AsyncbuildError as error:
                    await sending.send(error)

    def close(self) -> None:
        """End the download."""
        self._scope.cancel()
        if self._chunks is not None:
            self._chunks.close()
