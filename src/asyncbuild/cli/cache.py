"""``asyncbuild cache ls`` and ``asyncbuild cache prune``: the entries of a cache in a registry."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.cache.upkeep import CacheEntry, list_entries, remove_entries
from asyncbuild.cli.cache_options import duration
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.errors import UsageError
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.registry.registries import Registries, RegistrySettings


def cache(options: argparse.Namespace) -> int:
    """List the entries that the options choose; for ``prune``, delete them first."""
    prunes = options.action == "prune"
    if options.all and not prunes:
        raise UsageError("--all is for prune: ls shows every entry by itself")
    if prunes and not (options.all or options.older_than or options.scope):
        raise UsageError(
            "prune removes nothing by itself", hint="say --older-than, --scope or --all"
        )
    try:
        place = Reference.parse_repository(options.repository)
    except InvalidReference as error:
        raise UsageError(str(error)) from None
    if place.tag or place.digest:
        raise UsageError(f"{options.repository}: name the repository", hint="and --scope")
    now = time.time()
    age = duration(options.older_than) if options.older_than else 0.0
    settings = read_registries(options, os.environ)
    found = trio.run(_work, place, settings, (now - age, options.scope), prunes)
    if options.format == "json":
        sys.stdout.write(json.dumps([_document(entry) for entry in found], indent=2) + "\n")
    else:
        sys.stdout.write(_table(found, now, "removed" if prunes else "total"))
    return 0


async def _work(
    place: Reference,
    settings: RegistrySettings,
    chosen: tuple[float, str | None],
    prunes: bool,  # noqa: FBT001 - trio.run passes positions
) -> tuple[CacheEntry, ...]:
    before, scope = chosen
    with one_error():
        async with Registries(settings) as registries:
            client = registries.client(place.registry)
            client.expect(place.repository, "pull", *(("push", "delete") if prunes else ()))
            entries = await list_entries(client, place.repository)
            found = tuple(
                entry
                for entry in entries
                if entry.created <= before and (scope is None or entry.scopes == (scope,))
            )
            if prunes:
                await remove_entries(client, place.repository, found)
    return found


def _document(entry: CacheEntry) -> dict[str, object]:
    return {
        "key": entry.key.hex,
        "scopes": list(entry.scopes),
        "size": entry.size,
        "created": entry.created,
        "manifest": str(entry.manifest),
    }


def _table(entries: Iterable[CacheEntry], now: float, word: str) -> str:
    lines, total = [], 0
    for entry in entries:
        days = (now - entry.created) / 86400
        scopes = ", ".join(entry.scopes) or "(no scope)"
        lines.append(f"{entry.key.short}  {entry.size:>12} B  {days:>6.1f} d  {scopes}\n")
        total += entry.size
    return "".join(lines) + f"{len(lines)} entries, {total} bytes {word}\n"
