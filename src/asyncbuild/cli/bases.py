"""What commands that do not build ask registries: an image's configuration, or its digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import trio

from asyncbuild.build.layouts import read_document, read_manifest
from asyncbuild.build.outcome import one_error
from asyncbuild.errors import ImageNotFound, RemoteProtocolError
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor, Index, Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.plan.contexts import LAYOUT_HOST
from asyncbuild.plan.nouns import ImageRef
from asyncbuild.records import dataclass
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.verification import Verification


async def base_configs(
    images: Iterable[ImageRef], settings: RegistrySettings, layouts: Mapping[str, str]
) -> dict[ImageRef, ImageConfig]:
    """The configuration of each image, all asked for at once; ``layouts`` are the OCI layouts that images
    of `LAYOUT_HOST` are in, by repository. Raises RegistryError, and InputError for what is no layout.
    """
    found: dict[ImageRef, ImageConfig] = {}

    async def ask(registries: Registries, image: ImageRef) -> None:
        reference = image.reference
        place: _Place = (
            _Layout(Path(layouts[reference.repository]))
            if reference.registry == LAYOUT_HOST
            else _Repository(registries.client(reference.registry), reference.repository)
        )
        found[image] = await _config(place, image)

    with one_error():
        async with Registries(settings) as registries, trio.open_nursery() as nursery:
            for image in images:
                nursery.start_soon(ask, registries, image)
    return found


async def image_digests(
    references: Iterable[Reference], settings: RegistrySettings, verification: Verification
) -> dict[Reference, Digest]:
    """The digest that each reference has now, all asked for at once; an index has one for all platforms.

    Raises RegistryError, and `NotSigned` for what lacks the signature that ``verification`` wants.
    """
    found: dict[Reference, Digest] = {}

    async def ask(registries: Registries, reference: Reference) -> None:
        client = registries.client(reference.registry)
        fetched = await client.get_manifest(reference.repository, reference.tag or "latest")
        await verification.verify(client, fetched.manifest, reference)
        found[reference] = fetched.digest

    with one_error():
        async with Registries(settings) as registries, trio.open_nursery() as nursery:
            for reference in dict.fromkeys(references):
                nursery.start_soon(ask, registries, reference)
    return found


class _Place(Protocol):
    """Where an image is."""

    async def manifest(self, identifier: str) -> Manifest | Index:
        """What a tag or a digest names."""

    async def document(self, descriptor: Descriptor) -> bytes:
        """A configuration, verified."""


@dataclass(frozen=True, slots=True)
class _Repository:
    client: RegistryClient
    name: str

    async def manifest(self, identifier: str) -> Manifest | Index:
        return (await self.client.get_manifest(self.name, identifier)).manifest

    async def document(self, descriptor: Descriptor) -> bytes:
        return await self.client.get_blob(self.name, descriptor)


@dataclass(frozen=True, slots=True)
class _Layout:
    path: Path

    async def manifest(self, identifier: str) -> Manifest | Index:
        return await trio.to_thread.run_sync(read_manifest, self.path, identifier)

    async def document(self, descriptor: Descriptor) -> bytes:
        return await trio.to_thread.run_sync(read_document, self.path, descriptor.digest)


async def _config(place: _Place, image: ImageRef) -> ImageConfig:
    reference = image.reference
    manifest = await place.manifest(reference.identifier)
    if isinstance(manifest, Index):
        entry = manifest.choose(image.platform)
        if entry is None:
            raise ImageNotFound(f"{reference} has no image for {image.platform}")
        manifest = await place.manifest(str(entry.digest))
    if isinstance(manifest, Index):
        raise RemoteProtocolError(f"{reference}: an index inside an index")
    raw = await place.document(manifest.config)
    try:
        return ImageConfig.parse(raw)
    except InvalidConfig as error:
        raise RemoteProtocolError(f"{reference}: its configuration: {error}") from None
