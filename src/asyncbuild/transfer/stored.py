"""An image that a build kept because it could not be pushed, as a source."""

from __future__ import annotations

import trio

from asyncbuild.errors import InputError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor, InvalidManifest, parse_manifest
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field
from asyncbuild.registry.bodies import Body, FileBody
from asyncbuild.registry.client import Fetched
from asyncbuild.registry.registries import Registries
from asyncbuild.store.kept import KeptImage
from asyncbuild.store.store import Store
from asyncbuild.transfer.sources import RemoteBody


@dataclass(frozen=True, slots=True)
class StoredSource:
    """New layers are in the store, layers of the base in the store or where it came from."""

    store: Store
    kept: KeptImage
    registries: Registries
    nursery: trio.Nursery = field(repr=False)

    async def manifest(self, digest: Digest) -> Fetched:
        """A manifest of the store; raises `InputError` if it was pruned or is damaged."""
        raw = await trio.to_thread.run_sync(self.store.read_blob, digest)
        if raw is None:
            raise _gone(digest)
        try:
            manifest = parse_manifest(raw)
        except InvalidManifest as error:
            raise InputError(f"the store's {digest} is no manifest: {error}") from None
        return Fetched(raw, manifest.media_type, digest, manifest)

    def body(self, descriptor: Descriptor) -> Body:
        """The store's blob, or the registry's."""
        size = self.store.blob_size(descriptor.digest)
        if size == descriptor.size:
            return FileBody(str(self.store.blob_path(descriptor.digest)), size)
        origin = self.home(descriptor)
        if origin is None:
            raise _gone(descriptor.digest)
        client = self.registries.client(origin.registry)
        return RemoteBody(client, origin.repository, descriptor, self.nursery)

    def home(self, descriptor: Descriptor) -> Reference | None:
        """Where a layer of the base came from."""
        return self.kept.origins.get(descriptor.digest)


def _gone(digest: Digest) -> InputError:
    return InputError(
        f"the store no longer has {digest}", hint="it was pruned: the image must be built again"
    )
