"""Resolving: what the name of a base image means, which is a manifest and a configuration.

A name is judged by the source policy first. A manifest comes from an OCI layout, the store, a directory of
warmed images or a registry; a digest needs no request for what is here. Where a signature is wanted, it is
verified before anything of the image is kept, fetched or told to others. A configuration is taken from the
index of a cache if that has it: it was asked for at the same moment as the manifest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import trio

from asyncbuild.build.bases import no_such_image, parse_config, platforms
from asyncbuild.build.gate import SourceGate
from asyncbuild.build.job import Job
from asyncbuild.build.layouts import take_manifest
from asyncbuild.build.warmed import WarmedImages
from asyncbuild.errors import ImageNotFound, RemoteProtocolError
from asyncbuild.image.config import ImageConfig
from asyncbuild.image.digest import DiffId, Digest, InvalidDigest
from asyncbuild.image.manifest import (
    Descriptor,
    Index,
    InvalidManifest,
    Manifest,
    parse_manifest,
)
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.plan.contexts import LAYOUT_HOST
from asyncbuild.records import dataclass
from asyncbuild.registry.verification import Verification, refuse_unsigned
from asyncbuild.report.events import ImageResolved

_PATIENCE = 0.25
"""How long an index that may have the configuration is waited for, as a part of what the manifest took."""
_LEAST_PATIENCE = 0.03
"""Seconds, where a head start had the manifest before the build began to wait for it."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image of a registry for one platform: ``reference`` says where its blobs are."""

    reference: Reference
    manifest: Manifest
    config: ImageConfig

    @property
    def layers(self) -> tuple[tuple[Descriptor, DiffId], ...]:
        """The layers bottom first, each by both of its names."""
        return tuple(zip(self.manifest.layers, self.config.diff_ids, strict=True))


class Resolver:
    """Asks for the images of one build."""

    def __init__(
        self,
        job: Job,
        *,
        layouts: Mapping[str, str] | None = None,
        warmed: WarmedImages | None = None,
        gate: SourceGate | None = None,
        verification: Verification | None = None,
    ) -> None:
        """``layouts`` are the OCI layouts that have the images of `LAYOUT_HOST`, by repository; ``warmed``
        is looked into before a registry is asked; ``gate`` says which images may be used, and
        ``verification`` which must be signed.
        """
        self._job = job
        self._store = job.store
        self._warmed = warmed
        self._gate = gate or SourceGate()
        self._verification = verification or Verification()
        self.layouts = {name: Path(path) for name, path in (layouts or {}).items()}
        self.on_manifest: Callable[[Reference, Platform, Manifest], None] | None = None
        """Told what an image's layers are called, before its configuration has come."""
        self.remembered: Callable[[Digest, float], Awaitable[bytes | None]] | None = None
        """Asked for a configuration, with the seconds that may be waited, before a registry is."""
        self.on_config: Callable[[bytes], None] | None = None
        """Told every configuration."""

    async def resolve(self, reference: Reference, platform: Platform) -> BaseImage:
        """The image that ``reference`` names, for ``platform``.

        Raises `SourceDenied`, `NotSigned`, `ImageNotFound`, and what a registry's or a layout's faults are.
        """
        started = trio.current_time()
        named, reference = reference, self._gate.image(reference)
        manifest = await self._chosen(reference, named, platform)
        self._job.reporter.emit(
            ImageResolved(reference, manifest.digest, trio.current_time() - started)
        )
        if self.on_manifest is not None:
            self.on_manifest(reference, platform, manifest)
        patience = max(_LEAST_PATIENCE, _PATIENCE * (trio.current_time() - started))
        raw = await self._config(reference, manifest.config, patience)
        if self.on_config is not None:
            self.on_config(raw)
        return BaseImage(reference, manifest, parse_config(reference, manifest, raw))

    async def _chosen(self, reference: Reference, named: Reference, platform: Platform) -> Manifest:
        try:
            manifest = await self._top(reference, named)
        except ImageNotFound as error:
            if reference.registry == LAYOUT_HOST:
                raise
            raise no_such_image(reference, error) from error
        if isinstance(manifest, Index):
            entry = manifest.choose(platform)
            if entry is None:
                raise ImageNotFound(
                    f"{reference} has no image for {platform}",
                    hint=f"it has: {platforms(manifest)}",
                )
            manifest = await self._manifest(reference, str(entry.digest))
        if isinstance(manifest, Index):
            raise RemoteProtocolError(f"{reference}: an index inside an index")
        return manifest

    async def _top(self, reference: Reference, named: Reference) -> Manifest | Index:
        """What the name means, signed if it must be; ``named`` is what the Dockerfile calls it."""
        keys = self._verification.wanted(reference, named)
        if not keys:
            return await self._manifest(reference, reference.identifier)
        if reference.registry == LAYOUT_HOST:
            refuse_unsigned(keys, str(self.layouts[reference.repository]))
        found = self._kept_manifest(reference.identifier)
        if found is None:
            found = await self._fetched_manifest(reference, reference.identifier)
        client = self._job.registries.client(reference.registry)
        await self._verification.verify(client, found, reference, named)
        await trio.to_thread.run_sync(self._store.put_blob, found.raw)
        return found

    async def _manifest(self, reference: Reference, identifier: str) -> Manifest | Index:
        if reference.registry == LAYOUT_HOST:
            layout = self.layouts[reference.repository]
            return await trio.to_thread.run_sync(take_manifest, layout, identifier, self._store)
        kept = self._kept_manifest(identifier)
        if kept is not None:
            return kept
        found = await self._fetched_manifest(reference, identifier)
        await trio.to_thread.run_sync(self._store.put_blob, found.raw)
        return found

    def _kept_manifest(self, identifier: str) -> Manifest | Index | None:
        """What the store has under a digest: it needs no registry to know what that means."""
        with suppress(InvalidDigest, InvalidManifest):
            raw = self._store.read_blob(Digest.parse(identifier))
            if raw is not None:
                return parse_manifest(raw)
        return None

    async def _fetched_manifest(self, reference: Reference, identifier: str) -> Manifest | Index:
        if self._warmed is not None:
            found = await self._warmed.manifest(reference, identifier)
            if found is not None:
                return found
        client = self._job.registries.client(reference.registry)
        return (await client.get_manifest(reference.repository, identifier)).manifest

    async def _config(self, reference: Reference, descriptor: Descriptor, patience: float) -> bytes:
        kept = self._store.read_blob(descriptor.digest)
        if kept is not None:
            return kept
        if self._warmed is not None:
            found = await self._warmed.document(descriptor.digest)
            if found is not None:
                await trio.to_thread.run_sync(self._store.put_blob, found)
                return found
        raw = None
        if self.remembered is not None:
            raw = await self.remembered(descriptor.digest, patience)
        if raw is None:
            client = self._job.registries.client(reference.registry)
            raw = await client.get_blob(reference.repository, descriptor)
        await trio.to_thread.run_sync(self._store.put_blob, raw)
        return raw
