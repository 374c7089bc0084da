"""What a registry cache holds, and less of it: ``asyncbuild cache ls`` and ``asyncbuild cache prune``.

The indexes of scopes are rewritten before any entry is deleted, so no build is led to what goes. A build
that adds an entry meanwhile may find it missing in the index, and asks for it by its tag; one that counts
on an entry which is deleted under it builds again without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import trio

from asyncbuild.cache.keys import Key
from asyncbuild.cache.registry import KEY, RESULT, decode_index, encode_index
from asyncbuild.cache.results import CachedResult, DamagedResult
from asyncbuild.errors import ImageNotFound, RegistryError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Index, Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.registry.client import RegistryClient

_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry: its key, the scopes that list it, bytes of its own layer, seconds since the epoch."""

    key: Key
    scopes: tuple[str, ...]
    size: int
    created: int
    manifest: Digest


async def list_entries(client: RegistryClient, repository: str) -> tuple[CacheEntry, ...]:
    """Every entry, the oldest first. Raises `RegistryError`."""
    tags = await client.list_tags(repository)
    found: dict[str, Manifest | Index] = {}
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def read(tag: str) -> None:
        async with limit:
            try:
                found[tag] = (await client.get_manifest(repository, tag)).manifest
            except ImageNotFound:  # somebody deleted it just now
                return

    async with trio.open_nursery() as nursery:
        for tag in tags:
            nursery.start_soon(read, tag)
    origin = Reference(client.registry, repository)
    scopes: dict[Key, list[str]] = {}
    for tag, manifest in sorted(found.items()):
        if isinstance(manifest, Index):
            for key in decode_index(manifest, origin):
                scopes.setdefault(key, []).append(tag)
    entries = [_entry(tag, manifest, scopes) for tag, manifest in found.items()]
    return tuple(sorted(filter(None, entries), key=lambda entry: (entry.created, entry.key)))


async def remove_entries(
    client: RegistryClient, repository: str, going: Iterable[CacheEntry]
) -> None:
    """Take the entries out of every index that lists them, then delete them.

    Raises `RegistryError`, with a hint for registries that do not delete or do not let tags be moved.
    """
    entries = tuple(going)
    for scope in sorted({scope for entry in entries for scope in entry.scopes}):
        await _rewrite(client, repository, scope, {entry.key for entry in entries})
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def delete(entry: CacheEntry) -> None:
        async with limit:
            await client.delete_manifest(repository, entry.manifest)

    async with trio.open_nursery() as nursery:
        for entry in entries:
            nursery.start_soon(delete, entry)


async def _rewrite(client: RegistryClient, repository: str, scope: str, going: set[Key]) -> None:
    try:
        index = (await client.get_manifest(repository, scope)).manifest
    except ImageNotFound:
        return
    if not isinstance(index, Index):
        return
    known = decode_index(index, Reference(client.registry, repository))
    left = encode_index({key: entry for key, entry in known.items() if key not in going})
    try:
        await client.put_manifest(repository, scope, left.raw, left.media_type)
    except RegistryError as error:
        error.hint = error.hint or (
            f"nothing was deleted: the index {scope} lists the entries and cannot be rewritten;"
            " where tags are immutable, let the registry's own rules remove old images"
        )
        raise


def _entry(tag: str, manifest: Manifest | Index, scopes: dict[Key, list[str]]) -> CacheEntry | None:
    key = Key(manifest.annotations.get(KEY, ""))
    if isinstance(manifest, Index) or tag != key.tag or not manifest.layers:
        return None
    try:
        result = CachedResult.decode(manifest.annotations.get(RESULT, "").encode())
    except DamagedResult:
        return None
    size = manifest.layers[-1].size
    return CacheEntry(key, tuple(scopes.get(key, ())), size, result.created, manifest.digest)
