"""Archives that a build unpacks: into a work directory of the store, by a worker."""

from __future__ import annotations

from pathlib import Path

import trio

from asyncbuild.build.job import Job
from asyncbuild.context.archives import is_archive
from asyncbuild.context.sources import CopySource, InlineFile, UnpackedArchive
from asyncbuild.errors import InputError, LayerError
from asyncbuild.layers.changeset import FileSource
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.rootfs.view import DirectoryTree, View

Gathered = CopySource | InlineFile
"""What COPY and ADD have found, before archives among it are unpacked."""


async def unpack_archives(
    job: Job, sources: tuple[Gathered, ...]
) -> tuple[Gathered | UnpackedArchive, ...]:
    """``sources``, those that are archives and are to be unpacked (`CopySource.unpack`) by their content.

    `InputError` for an archive that is damaged or hostile.
    """
    if not any(isinstance(source, CopySource) and source.unpack for source in sources):
        return sources
    archives = await trio.to_thread.run_sync(_archives, sources)
    flights = {
        place: job.ledger.spawn(job.nursery, f"unpack {source.name}", _unpack, job, source)
        for place, source in archives.items()
    }
    return tuple(
        [
            await flights[place].wait() if place in flights else source
            for place, source in enumerate(sources)
        ]
    )


def _archives(sources: tuple[Gathered, ...]) -> dict[int, CopySource]:
    return {
        place: source
        for place, source in enumerate(sources)
        if isinstance(source, CopySource) and source.unpack and is_archive(source.entries[0])
    }


async def _unpack(job: Job, source: CopySource) -> UnpackedArchive:
    file = source.entries[0].source
    assert isinstance(file, FileSource)
    work = await trio.to_thread.run_sync(job.store.new_work, "archive", "fs")
    try:
        facts = await job.workers.extract(file.path, work / "fs")
    except LayerError as error:
        raise InputError(
            f"the archive {source.name} cannot be unpacked: {error.message}",
            hint=error.hint or "COPY, or ADD --unpack=false, takes it as it is",
        ) from error
    return await trio.to_thread.run_sync(_content, source.name, work / "fs", facts)


def _content(name: str, directory: Path, facts: UnpackedFacts) -> UnpackedArchive:
    tree = View([DirectoryTree(directory)])
    entries = tuple(entry for entry in tree.walk("", hardlinks=True) if entry.path)
    implicit = frozenset(facts.implicit_directories)
    return UnpackedArchive(name, entries, implicit, facts.outside_entries)
