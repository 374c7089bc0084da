"""Base images out of a directory (``--cache-dir``), before a registry is asked for them.

A tag is resolved by one request for what it means now, without the manifest's bytes; what the answer names
is read here if it is here. A digest needs no request. Whatever the directory lacks, holds for longer than
the build accepts, or has damaged, comes from the registry, and a warning says so where that is not plain
absence.
"""

from __future__ import annotations

import datetime as dt
import time
from contextlib import suppress
from pathlib import Path

import trio

from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.job import Job
from asyncbuild.cache.images import DamagedEntry, ImageDirectory, Listing
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.manifest import Descriptor, Index, Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.report.events import WarningRaised


def warmed_images(job: Job, path: Path | None, ttl: float) -> WarmedImages | None:
    """What the directory at ``path`` has; images are good for ``ttl`` seconds."""
    return None if path is None else WarmedImages(job, ImageDirectory(path), ttl)


class WarmedImages:
    """The images of one directory, as one build sees them. Its contents are listed once."""

    def __init__(self, job: Job, directory: ImageDirectory, ttl: float) -> None:
        self._job = job
        self._directory = directory
        self._oldest = time.time() - ttl
        self._listing: Listing | None = None
        self._reading = trio.Lock()
        self._told: set[str] = set()
        self._served: set[Digest] = set()

    async def manifest(self, reference: Reference, identifier: str) -> Manifest | Index | None:
        """What ``identifier`` (a tag or a digest) of the repository means, if it is here and usable."""
        listing = await self._listed()
        digest = await self._meaning(listing, reference, identifier)
        if digest is None or not self._is_usable(listing, reference, digest):
            return None
        try:
            return await trio.to_thread.run_sync(self._directory.manifest, digest)
        except DamagedEntry as error:
            self._tell(f"{error}; {reference.familiar} is fetched from the registry")
            return None

    async def document(self, digest: Digest) -> bytes | None:
        """A configuration, if it is here and usable."""
        if not self._is_fresh(await self._listed(), digest):
            return None
        try:
            return await trio.to_thread.run_sync(self._directory.document, digest)
        except DamagedEntry as error:
            self._tell(f"{error}; it is fetched from the registry")
            return None

    async def blob(self, blob: Descriptor) -> GrowingFile | None:
        """A layer, if it is here and usable; its bytes are the reader's to check."""
        if not self._is_fresh(await self._listed(), blob.digest):
            return None
        path = self._directory.blob(blob.digest)
        try:
            found = await trio.to_thread.run_sync(GrowingFile.whole, path)
            found.open()
        except OSError as error:
            reason = f"{blob.digest} cannot be read: {error.strerror}"
            self._tell(f"{reason}; it is fetched from the registry")
            return None
        if found.size != blob.size:
            found.close()
            reason = f"{blob.digest} has {found.size} bytes instead of {blob.size}"
            self._tell(f"{reason}; it is fetched from the registry")
            return None
        self._served.add(blob.digest)
        return found

    def place_of(self, digest: Digest) -> str:
        """How a message about the bytes of ``digest`` begins, if they came from here; "" if not."""
        return f"cache directory {self._directory.path}: " if digest in self._served else ""

    async def _listed(self) -> Listing:
        async with self._reading:
            if self._listing is None:
                self._listing = await trio.to_thread.run_sync(self._directory.read)
                if self._listing.problem:
                    self._tell(f"{self._listing.problem}; images are fetched from registries")
            return self._listing

    async def _meaning(
        self, listing: Listing, reference: Reference, identifier: str
    ) -> Digest | None:
        with suppress(InvalidDigest):
            return Digest.parse(identifier)
        if str(reference) not in listing.names:
            return None  # the registry tells what it means together with the manifest
        client = self._job.registries.client(reference.registry)
        found = await client.find_manifest(reference.repository, identifier)
        return None if found is None else found.digest

    def _is_usable(self, listing: Listing, reference: Reference, digest: Digest) -> bool:
        since = listing.since.get(digest)
        if since is not None and since < self._oldest:
            moment = dt.datetime.fromtimestamp(since, dt.UTC).strftime("%Y-%m-%d %H:%M")
            self._tell(
                f"{reference.familiar} is of {moment} UTC, older than --cache-ttl allows; it is"
                " fetched from the registry"
            )
        return self._is_fresh(listing, digest)

    def _is_fresh(self, listing: Listing, digest: Digest) -> bool:
        since = listing.since.get(digest)
        return since is not None and since >= self._oldest

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            where = f"cache directory {self._directory.path}"
            self._job.reporter.emit(WarningRaised(f"{where}: {text}"))
