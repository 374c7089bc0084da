"""``asyncbuild cache ls`` and ``asyncbuild cache prune``: the entries of a cache in a registry, or what a
directory holds: base images that ``asyncbuild warm`` left, results, cache mounts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.cache.directory_upkeep import list_results, remove_results
from asyncbuild.cache.images import Entry, ImageDirectory
from asyncbuild.cache.upkeep import CacheEntry, Kind, list_entries, remove_entries
from asyncbuild.cli.cache_options import duration
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.errors import UsageError
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.records import dataclass
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.report.escape import printable

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which entries are meant, and whether they shall go: those from before ``before`` (seconds since the
    epoch; infinity is all), that ``scope`` alone lists, of some kinds.
    """

    before: float
    scope: str | None
    kinds: frozenset[Kind]
    removes: bool

    def takes(self, entry: CacheEntry) -> bool:
        """Whether an entry is meant. One whose age nobody knows is not old."""
        old = self.before == _FOREVER or (entry.written or _FOREVER) <= self.before
        here = self.scope is None or entry.scopes == (self.scope,)
        return old and here and entry.kind in self.kinds


@dataclass(frozen=True, slots=True)
class _Row:
    """One entry as people and programs see it."""

    line: str
    document: Mapping[str, object]
    size: int


def cache(options: argparse.Namespace) -> int:
    """List the entries that the options choose; for ``prune``, delete them first."""
    _check(options)
    prunes = options.action == "prune"
    now = time.time()
    choice = Choice(
        now - duration(options.older_than) if options.older_than else _FOREVER,
        options.scope,
        frozenset(map(Kind, options.kind)) or frozenset(Kind),
        removes=prunes and not options.dry_run,
    )
    if _is_path(options.place):
        rows = _in_directory(Path(options.place), choice, now)
    else:
        place = _repository(options.place)
        entries = trio.run(_in_registry, place, read_registries(options, os.environ), choice)
        rows = [_row(entry, now) for entry in entries]
    if options.format == "json":
        sys.stdout.write(json.dumps([row.document for row in rows], indent=2) + "\n")
    else:
        word = "total" if not prunes else "removed" if choice.removes else "would be removed"
        total = sum(row.size for row in rows)
        sys.stdout.write("".join(row.line for row in rows))
        sys.stdout.write(f"{len(rows)} entries, {total} bytes {word}\n")
    return 0


def _check(options: argparse.Namespace) -> None:
    if _is_path(options.place) and (options.scope or options.kind):
        raise UsageError("--scope and --kind are for a cache in a registry")
    if options.action == "ls" and (options.all or options.dry_run):
        raise UsageError(
            "--all and --dry-run are for prune: ls shows everything, and removes nothing"
        )
    if options.action == "prune" and not (
        options.all or options.older_than or options.scope or options.kind
    ):
        raise UsageError(
            "prune removes nothing by itself", hint="say --older-than, --scope, --kind or --all"
        )


def _is_path(text: str) -> bool:
    """Whether a place is a directory on this machine: no reference begins so."""
    return text.startswith(("/", "."))


def _repository(text: str) -> Reference:
    try:
        place = Reference.parse_repository(text)
    except InvalidReference as error:
        raise UsageError(str(error)) from None
    if place.tag or place.digest:
        raise UsageError(f"{text}: name the repository", hint="and --scope")
    return place


async def _in_registry(
    place: Reference, settings: RegistrySettings, choice: Choice
) -> tuple[CacheEntry, ...]:
    with one_error():
        async with Registries(settings) as registries:
            client = registries.client(place.registry)
            more = ("push", "delete") if choice.removes else ()
            client.expect(place.repository, "pull", *more)
            entries = await list_entries(client, place.repository)
            found = tuple(filter(choice.takes, entries))
            if choice.removes:
                await remove_entries(client, place.repository, found)
    return found


def _in_directory(path: Path, choice: Choice, now: float) -> list[_Row]:
    """Images and cache mounts, which its index lists, and results of a cache, if there are any."""
    directory = ImageDirectory(path)
    images = tuple(entry for entry in directory.entries() if entry.since < choice.before)
    results = tuple(filter(choice.takes, list_results(path)))
    if choice.removes:
        remove_results(path, results)
        images = directory.prune(choice.before, now)
        directory.sweep(now)
    rows = [_row(entry, now, scoped=False) for entry in results]
    return rows + [_image_row(image, now) for image in images]


def _row(entry: CacheEntry, now: float, *, scoped: bool = True) -> _Row:
    lists = scoped and entry.kind is not Kind.LISTING
    scopes = (", ".join(entry.scopes) or "(no scope)") if lists else ""
    facts = _facts(entry.name, entry.size, entry.written, now)
    words = (f"{entry.kind.value:<7}", facts, scopes, printable(entry.about))
    document = {
        "kind": entry.kind.value,
        "key": entry.name,
        "about": entry.about,
        "scopes": list(entry.scopes),
        "size": entry.size,
        "written": entry.written,
        "manifest": str(entry.manifest),
    }
    return _Row("  ".join(filter(None, words)) + "\n", document, entry.size)


def _image_row(image: Entry, now: float) -> _Row:
    digest = image.descriptor.digest
    facts = _facts(digest.hex, image.size, image.since, now)
    document = {
        "name": image.name,
        "size": image.size,
        "written": int(image.since),
        "manifest": str(digest),
    }
    return _Row(f"{facts}  {printable(image.name)}\n", document, image.size)


def _facts(name: str, size: int, written: float | None, now: float) -> str:
    age = "?" if written is None else f"{(now - written) / 86400:.1f}"
    return f"{name[:12]}  {size:>12} B  {age:>6} d"
