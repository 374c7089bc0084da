"""Build contexts that are not a directory on this machine: received before anything is planned.

As in BuildKit (frontend/dockerui/context.go ``initContext``): a git repository is a context with its
Dockerfile in it; what a URL gives is one if it is an archive, and else is the Dockerfile itself, with that
file alone as context; so is an archive or a Dockerfile on the standard input.
"""

from __future__ import annotations

import os
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

import trio

from asyncbuild.build.fetch import FetchTools, WebFetcher
from asyncbuild.build.git import Git
from asyncbuild.build.remotes import directory_of_file
from asyncbuild.context.archives import is_archive_file
from asyncbuild.dockerfile.remote import GitReference, WebFile
from asyncbuild.errors import InputError, LayerError
from asyncbuild.layers.extract import ExtractJob, extract
from asyncbuild.records import dataclass, replace

RemotePlace: TypeAlias = GitReference | WebFile | Path
"""A repository, a URL, or a file that is an archive or a Dockerfile."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """What came: a directory, and the Dockerfile if that is what came (else it is in the directory)."""

    context: Path
    dockerfile: Path | None = None


async def receive_context(place: RemotePlace, tools: FetchTools, made_ns: int) -> Incoming:
    """Bring ``place`` into a work directory of the store. `InputError` or `FetchFailed` if that fails.

    Where SOURCE_DATE_EPOCH is set, files of a repository have the time of the commit, else ``made_ns``.
    """
    match place:
        case GitReference():
            if tools.environ.get("SOURCE_DATE_EPOCH"):
                place = replace(place, mtime="commit")
            return Incoming((await Git(tools).checkout(place, made_ns)).path)
        case WebFile():
            async with aclosing(WebFetcher(tools)) as web:
                fetched = await web.fetch(place)
            if await trio.to_thread.run_sync(is_archive_file, str(fetched.path)):
                return await _unpacked(fetched.path, place.shown, tools)
            work = await trio.to_thread.run_sync(tools.store.new_work, "context", "fs")
            await trio.to_thread.run_sync(directory_of_file, fetched, work / "fs")
            return Incoming(work / "fs", fetched.path)
        case Path():
            if await trio.to_thread.run_sync(is_archive_file, str(place)):
                return await _unpacked(place, place.name, tools)
            work = await trio.to_thread.run_sync(tools.store.new_work, "context", "fs")
            return Incoming(work / "fs", place)


async def fetch_dockerfile(file: WebFile, tools: FetchTools) -> Path:
    """The Dockerfile behind a URL (``-f https://…``)."""
    async with aclosing(WebFetcher(tools)) as web:
        return (await web.fetch(file)).path


async def _unpacked(archive: Path, name: str, tools: FetchTools) -> Incoming:
    work = await trio.to_thread.run_sync(tools.store.new_work, "context", "fs")

    def unpack() -> None:
        extract(ExtractJob(os.path.realpath(archive), str(work / "fs"), tools.limits))

    try:
        await trio.to_thread.run_sync(unpack)
    except LayerError as error:
        raise InputError(
            f"the context {name} cannot be unpacked: {error.message}", hint=error.hint
        ) from error
    return Incoming(work / "fs")
