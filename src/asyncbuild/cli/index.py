"""``asyncbuild index create``: one multi-platform image of several, as imagetools of buildx makes it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.cli.transferring import Desk, reference_of, references, transfer
from asyncbuild.errors import ImageNotFound, UsageError
from asyncbuild.image.digest import Digest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.records import replace
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.transfer.indexes import IndexAnnotations, IndexPush, Part, fetch_parts, index_of

_LEVEL = re.compile(r"(index|manifest-descriptor)(?:\[([^\]]*)\])?")


def index(options: argparse.Namespace) -> int:
    """Make the index, and push it or print it."""
    sources = tuple(reference_of(text) for text in options.sources)
    names = references(options.tag, "-t ")
    if not names and not options.dry_run:
        raise UsageError("nothing says where to push", hint="name the index with -t")
    if options.append and not names:
        raise UsageError("--append needs a -t that is there already")
    annotations = _annotations(options.annotation)
    if options.append:
        sources = (names[0], *sources)
    if options.dry_run:
        settings = read_registries(options, os.environ)
        sys.stdout.buffer.write(trio.run(_dry_run, settings, sources, annotations) + b"\n")
        return 0

    async def work(desk: Desk) -> Digest:
        for name in names:
            desk.registries.client(name.registry).expect(name.repository, "pull", "push")
        parts = await _parts(desk.registries, sources, append=options.append)
        had = parts[0].fetched.manifest.annotations if options.append and parts else {}
        made = index_of(parts, replace(annotations, index={**had, **annotations.index}))
        await IndexPush(desk.registries, desk.reporter, desk.nursery, parts, made).run(names)
        return made.digest

    return transfer(options, work)


async def _dry_run(
    settings: RegistrySettings, sources: tuple[Reference, ...], annotations: IndexAnnotations
) -> bytes:
    with one_error():
        async with Registries(settings) as registries:
            return index_of(await fetch_parts(registries, sources), annotations).raw


async def _parts(
    registries: Registries, sources: tuple[Reference, ...], *, append: bool
) -> tuple[Part, ...]:
    """All parts; what is appended to need not be there yet."""
    if not append:
        return await fetch_parts(registries, sources)
    try:
        first = await fetch_parts(registries, sources[:1])
    except* ImageNotFound:
        first = ()
    return (*first, *await fetch_parts(registries, sources[1:]))


def _annotations(texts: Iterable[str]) -> IndexAnnotations:
    """``[LEVEL[PLATFORM],…:]KEY=VALUE``; without a level it is of the index."""
    own: dict[str, str] = {}
    entries: list[tuple[Platform | None, str, str]] = []
    for text in texts:
        front, equals, value = text.partition("=")
        levels, colon, key = front.partition(":")
        if not equals or not (key if colon else front):
            raise UsageError(f"--annotation {text}: write KEY=VALUE")
        for item in levels.split(",") if colon else ("index",):
            match = _LEVEL.fullmatch(item)
            if match is None:
                raise UsageError(
                    f"--annotation {text}: {item!r} is not index or manifest-descriptor[PLATFORM]"
                )
            if match[1] == "index":
                own[key if colon else front] = value
            else:
                entries.append((_platform(match[2], text), key, value))
    return IndexAnnotations(own, tuple(entries))


def _platform(text: str | None, whole: str) -> Platform | None:
    if text is None:
        return None
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise UsageError(f"--annotation {whole}: {error}") from None
