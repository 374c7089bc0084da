"""What a registry cache holds, and less of it: ``asyncbuild cache ls`` and ``asyncbuild cache prune``.

The indexes of scopes are rewritten before any entry is deleted, so no build is led to what goes. A build
that adds an entry meanwhile may find it missing in the index, and asks for it by its tag; one that counts
on an entry which is deleted under it builds again without it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from enum import Enum

import trio

from asyncbuild.cache.keys import Key
from asyncbuild.cache.registry import (
    CHAIN,
    KEY,
    LISTING,
    MOUNT,
    RESULT,
    WRITTEN,
)
from asyncbuild.cache.results import CachedResult, DamagedResult
from asyncbuild.cache.scope_index import decode_index, encode_index
from asyncbuild.errors import ImageNotFound, RegistryError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Index, Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, replace
from asyncbuild.registry.client import RegistryClient

_AT_ONCE = 32
_TAG = re.compile(r"(?:(?P<scope>.+)-)?(?P<kind>[kfm])-(?P<name>[0-9a-f]{64})")


class Kind(Enum):
    """What an entry keeps: a step's result, what a base shows, or the content of a cache mount."""

    STEP = "step"
    LISTING = "listing"
    MOUNT = "mount"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry. ``name`` is what its tag ends with: the key of a step or a mount, the ChainID of a base.

    ``about`` is the step as its Dockerfile has it, or the id of the mount. ``scopes`` list it: the indexes
    with a step, the prefix of a mount's tag. ``size`` is in bytes, that of a step's own layer. ``written``
    is in seconds since the epoch, by the clock; None if nobody knows.
    """

    kind: Kind
    name: str
    about: str
    scopes: tuple[str, ...]
    size: int
    written: int | None
    manifest: Digest


async def list_entries(client: RegistryClient, repository: str) -> tuple[CacheEntry, ...]:
    """Every entry, the oldest first. Raises `RegistryError`."""
    tags = await client.list_tags(repository)
    origin = Reference(client.registry, repository)
    found: dict[str, CacheEntry] = {}
    lists: dict[str, frozenset[str]] = {}
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def read(tag: str) -> None:
        async with limit:
            try:
                manifest = (await client.get_manifest(repository, tag)).manifest
            except ImageNotFound:  # somebody deleted it just now
                return
        if isinstance(manifest, Index):
            lists[tag] = frozenset(key.hex for key in decode_index(manifest, origin).entries)
        elif (entry := _entry(tag, manifest)) is not None:
            found[tag] = entry

    async with trio.open_nursery() as nursery:
        for tag in tags:
            nursery.start_soon(read, tag)
    scopes: dict[str, list[str]] = {}
    for tag, names in sorted(lists.items()):
        for name in names:
            scopes.setdefault(name, []).append(tag)
    return _merged(
        replace(entry, scopes=tuple(scopes.get(entry.name, ())))
        if entry.kind is Kind.STEP
        else entry
        for entry in found.values()
    )


async def remove_entries(
    client: RegistryClient, repository: str, going: Iterable[CacheEntry]
) -> None:
    """Take the entries out of every index that lists them, then delete them.

    Raises `RegistryError`, with a hint for registries that do not delete or do not let tags be moved.
    """
    entries = tuple(going)
    steps = [entry for entry in entries if entry.kind is Kind.STEP]
    for scope in sorted({scope for entry in steps for scope in entry.scopes}):
        await _rewrite(client, repository, scope, {Key(entry.name) for entry in steps})
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
    kept = {key: entry for key, entry in known.entries.items() if key not in going}
    left = encode_index(replace(known, entries=kept))
    try:
        await client.put_manifest(repository, scope, left.raw, left.media_type)
    except RegistryError as error:
        error.hint = error.hint or (
            f"nothing was deleted: the index {scope} lists the entries and cannot be rewritten;"
            " where tags are immutable, let the registry's own rules remove old images"
        )
        raise


def _merged(entries: Iterable[CacheEntry]) -> tuple[CacheEntry, ...]:
    """Entries that are one manifest under several tags (of one mount in several scopes) are one entry:
    deleting it deletes them all.
    """
    found: dict[Digest, CacheEntry] = {}
    for entry in entries:
        known = found.get(entry.manifest, entry)
        scopes = tuple(sorted({*known.scopes, *entry.scopes}))
        found[entry.manifest] = replace(known, scopes=scopes)
    return tuple(sorted(found.values(), key=lambda entry: (entry.written or 0, entry.name)))


def _entry(tag: str, manifest: Manifest) -> CacheEntry | None:
    """What a tag names; None if that is no entry of a cache."""
    match = _TAG.fullmatch(tag)
    if match is None or not manifest.layers:
        return None
    name, about, size = match["name"], manifest.annotations, manifest.layers[-1].size
    if match["kind"] == "m" and MOUNT in about:
        scopes = (match["scope"],) if match["scope"] else ()
        text, written = about[MOUNT], _written(about)
        return CacheEntry(Kind.MOUNT, name, text, scopes, size, written, manifest.digest)
    if match["scope"]:
        return None
    if match["kind"] == "f" and CHAIN in about:
        size = len(about.get(LISTING, ""))
        return CacheEntry(Kind.LISTING, name, "", (), size, _written(about), manifest.digest)
    if match["kind"] != "k" or about.get(KEY) != name:
        return None
    try:
        result = CachedResult.decode(about.get(RESULT, "").encode())
    except DamagedResult:
        return None
    return CacheEntry(Kind.STEP, name, result.step, (), size, result.written, manifest.digest)


def _written(annotations: Mapping[str, str]) -> int | None:
    try:
        return int(dt.datetime.fromisoformat(annotations.get(WRITTEN, "")).timestamp())
    except ValueError:
        return None
