"""Making an index of images that are there: the last step of builds on several machines.

The rules are those of ``docker buildx imagetools create``: what is an index already gives its entries,
attestations included; an image gives one entry, whose platform its configuration says; of two entries with
one digest there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import trio

from asyncbuild.errors import RemoteProtocolError, UsageError
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import (
    DOCKER_INDEX,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    is_docker,
)
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.client import Fetched
from asyncbuild.registry.registries import Registries
from asyncbuild.report.events import Reporter
from asyncbuild.transfer.copying import ATTESTATION_OF, Copier, as_fetched, with_annotations
from asyncbuild.transfer.sources import RegistrySource

_ATTESTATION_PLATFORM = Platform("unknown", "unknown")


@dataclass(frozen=True, slots=True)
class Part:
    """One image or index that goes into the new index, and where it is."""

    reference: Reference
    fetched: Fetched
    entries: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class IndexAnnotations:
    """Annotations of the index itself, and of its entries by platform (None: of every image)."""

    index: Mapping[str, str] = field(default_factory=dict)
    entries: Sequence[tuple[Platform | None, str, str]] = ()


async def fetch_parts(registries: Registries, references: Iterable[Reference]) -> tuple[Part, ...]:
    """Look all of them up side by side; in their order. Raises RegistryError."""
    asked = tuple(references)
    found: dict[int, Part] = {}

    async def fetch(place: int, reference: Reference) -> None:
        client = registries.client(reference.registry)
        client.expect(reference.repository, "pull")
        fetched = await client.resolve(reference)
        found[place] = Part(reference, fetched, await _entries(registries, reference, fetched))

    async with trio.open_nursery() as nursery:
        for place, reference in enumerate(asked):
            nursery.start_soon(fetch, place, reference)
    return tuple(found[place] for place in range(len(asked)))


async def _entries(
    registries: Registries, reference: Reference, fetched: Fetched
) -> tuple[Descriptor, ...]:
    manifest = fetched.manifest
    if isinstance(manifest, Index):
        return manifest.manifests
    descriptor = Descriptor(fetched.media_type, fetched.digest, len(fetched.raw))
    return (replace(descriptor, platform=await _platform(registries, reference, manifest)),)


async def _platform(
    registries: Registries, reference: Reference, manifest: Manifest
) -> Platform | None:
    """What the configuration says; None for an artifact that is no image."""
    if not manifest.config.media_type.endswith(
        ("vnd.oci.image.config.v1+json", "vnd.docker.container.image.v1+json")
    ):
        return None
    client = registries.client(reference.registry)
    raw = await client.get_blob(reference.repository, manifest.config)
    try:
        return ImageConfig.parse(raw).platform
    except InvalidConfig as error:
        raise RemoteProtocolError(f"{reference}: its configuration: {error}") from None


def merge(parts: Sequence[Part], annotations: IndexAnnotations | None = None) -> Index:
    """The index of all parts; docker's media type if every part has docker's.

    Raises `UsageError` where two different images are for one platform.
    """
    annotations = annotations or IndexAnnotations()
    entries: dict[Digest, Descriptor] = {}
    for part in parts:
        for entry in part.entries:
            entries.setdefault(entry.digest, _annotated(entry, annotations))
    images = [entry for entry in entries.values() if _is_image(entry)]
    seen: dict[str, Descriptor] = {}
    for entry in images:
        other = seen.setdefault(str(entry.platform), entry)
        if other is not entry:
            raise UsageError(
                f"two images are for {entry.platform}: {other.digest} and {entry.digest}"
            )
    docker = (
        all(is_docker(entry.media_type) for entry in entries.values()) and not annotations.index
    )
    return Index.make(
        tuple(entries.values()),
        media_type=DOCKER_INDEX if docker else OCI_INDEX,
        annotations=annotations.index,
    )


def _is_image(entry: Descriptor) -> bool:
    known = entry.platform is not None and entry.platform != _ATTESTATION_PLATFORM
    return known and ATTESTATION_OF not in entry.annotations


def _annotated(entry: Descriptor, annotations: IndexAnnotations) -> Descriptor:
    if not _is_image(entry):
        return entry
    extra = {
        key: value
        for platform, key, value in annotations.entries
        if platform is None or (entry.platform is not None and platform.accepts(entry.platform))
    }
    return with_annotations(entry, extra)


def index_of(parts: Sequence[Part], annotations: IndexAnnotations) -> Fetched:
    """What is pushed: an index that is the only part stays as it is, unless it is annotated."""
    plain = not (annotations.index or annotations.entries)
    if len(parts) == 1 and isinstance(parts[0].fetched.manifest, Index) and plain:
        return parts[0].fetched
    return as_fetched(merge(parts, annotations))


@dataclass(frozen=True, slots=True)
class IndexPush:
    """An index on its way: what it is made of, and what that is."""

    registries: Registries
    reporter: Reporter
    nursery: trio.Nursery
    parts: Sequence[Part]
    index: Fetched

    async def run(self, names: Iterable[Reference]) -> None:
        """Bring every part to every repository that is named, then the index under its names."""
        tags: dict[tuple[str, str], list[str]] = {}
        for name in names:
            tags.setdefault((name.registry, name.repository), []).append(name.tag or "latest")
        async with trio.open_nursery() as nursery:
            for (registry, repository), found in tags.items():
                copier = Copier(self.registries, self.reporter, registry, repository)
                nursery.start_soon(self._push, copier, found)

    async def _push(self, copier: Copier, tags: Iterable[str]) -> None:
        async with trio.open_nursery() as nursery:
            for part in self.parts:
                client = self.registries.client(part.reference.registry)
                source = RegistrySource(client, part.reference, self.nursery)
                nursery.start_soon(copier.copy_entries, source, part.fetched)
        async with trio.open_nursery() as nursery:
            for tag in tags:
                nursery.start_soon(copier.name, self.index, tag)
