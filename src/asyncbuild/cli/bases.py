"""What commands that do not build ask registries: an image's configuration, or its digest."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.errors import ImageNotFound, RemoteProtocolError
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Index
from asyncbuild.image.reference import Reference
from asyncbuild.plan.nouns import ImageRef
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.verification import Verification


async def base_configs(
    images: Iterable[ImageRef], settings: RegistrySettings
) -> dict[ImageRef, ImageConfig]:
    """The configuration of each image, all asked for at once. Raises RegistryError."""
    found: dict[ImageRef, ImageConfig] = {}

    async def ask(registries: Registries, image: ImageRef) -> None:
        found[image] = await _config(registries, image)

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


async def _config(registries: Registries, image: ImageRef) -> ImageConfig:
    reference = image.reference
    client = registries.client(reference.registry)
    manifest = (await client.resolve(reference)).manifest
    if isinstance(manifest, Index):
        entry = manifest.choose(image.platform)
        if entry is None:
            raise ImageNotFound(f"{reference} has no image for {image.platform}")
        manifest = (await client.get_manifest(reference.repository, entry.digest)).manifest
    if isinstance(manifest, Index):
        raise RemoteProtocolError(f"{reference}: an index inside an index")
    raw = await client.get_blob(reference.repository, manifest.config)
    try:
        return ImageConfig.parse(raw)
    except InvalidConfig as error:
        raise RemoteProtocolError(f"{reference}: its configuration: {error}") from None
