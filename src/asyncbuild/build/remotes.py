"""What a build takes from URLs and git repositories: one flight for each, started before it is needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import trio

from asyncbuild.build.fetch import FetchedFile, FetchTools, WebFetcher, secrets_of
from asyncbuild.build.futures import Future
from asyncbuild.build.git import Checkout, Found, Git
from asyncbuild.build.job import Job
from asyncbuild.build.outline import OutlinedStep
from asyncbuild.build.request import BuildRequest
from asyncbuild.cache.keys import Value
from asyncbuild.context.directory import DirectoryContext, open_context
from asyncbuild.context.selection import Selection
from asyncbuild.context.sources import CopySource
from asyncbuild.dockerfile.instructions import Add
from asyncbuild.dockerfile.remote import (
    GitReference,
    Remote,
    WebFile,
    parse_context_remote,
    parse_remote,
)
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import Digest
from asyncbuild.layers.changeset import Entry, FileSource, Kind
from asyncbuild.plan.nouns import ContextRef
from asyncbuild.records import replace

T = TypeVar("T")

_FILE_MODE = 0o600


class Remotes:
    """Fetches what ADD names. Lives as long as the nursery."""

    def __init__(self, job: Job, tools: FetchTools) -> None:
        self._job = job
        self._tools = tools
        self._git = Git(tools)
        self._web: WebFetcher | None = None
        self._flights: dict[Hashable, Future[Any]] = {}

    def file(self, file: WebFile, checksum: Digest | None = None) -> Future[FetchedFile]:
        """The file; its content is what ``checksum`` says."""
        return self._flight((file, checksum), self._fetcher.fetch, file, checksum)

    def commit(self, wanted: GitReference) -> Future[Found]:
        """What the reference means now; nothing is fetched."""
        return self._flight(("commit", wanted), self._git.find, wanted)

    def checkout(self, wanted: GitReference) -> Future[Checkout]:
        """The files of the reference."""
        made_ns = self._job.created * 10**9
        return self._flight(wanted, self._git.checkout, wanted, made_ns)

    def start(self, instruction: Add) -> None:
        """Begin to fetch everything that a resolved ADD names."""
        for source in instruction.sources:
            remote = remote_of(instruction, source)
            if isinstance(remote, WebFile):
                self.file(remote, checksum_of(instruction))
            elif remote is not None:
                self.checkout(remote)

    async def settle_git(self, steps: Iterable[OutlinedStep]) -> None:
        """Fetch everything for which ``steps`` need the program git, and wait until all of it is here.

        What fails says so to the step that asks for it, if there is one.
        """
        wanted: list[GitReference] = []
        for step in steps:
            added = step.instruction
            if isinstance(added, Add):
                wanted += _repositories(remote_of(added, source) for source in added.sources)
            contexts = (ref for ref in step.step.sources if isinstance(ref, ContextRef))
            wanted += _repositories(parse_context_remote(ref.place) for ref in contexts)
        for future in [get(remote) for remote in wanted for get in (self.commit, self.checkout)]:
            with suppress(AsyncbuildError):
                await future.wait()

    async def source(self, instruction: Add, remote: Remote) -> CopySource:
        """What one source of a resolved ADD is, once it is here."""
        if isinstance(remote, WebFile):
            fetched = await self.file(remote, checksum_of(instruction)).wait()
            return _file_source(remote, fetched, unpack=instruction.unpack is True)
        checkout = await self.checkout(remote).wait()
        return await trio.to_thread.run_sync(_tree_source, checkout, instruction.excludes)

    def context(self, ref: ContextRef) -> Future[DirectoryContext]:
        """The files of a named build context."""
        label = f"context {ref.name}"
        return self._flight(ref, self._open_context, ref, label=label)

    async def _open_context(self, ref: ContextRef) -> DirectoryContext:
        remote = parse_context_remote(ref.place)
        if isinstance(remote, GitReference):
            checkout = await self.checkout(remote).wait()
            return DirectoryContext(checkout.path)
        if remote is not None:
            fetched = await self.file(remote).wait()
            work = await trio.to_thread.run_sync(self._tools.store.new_work, "context", "fs")
            return await trio.to_thread.run_sync(directory_of_file, fetched, work / "fs")
        return await trio.to_thread.run_sync(open_context, Path(ref.place), None)

    async def fingerprint(self, instruction: Add, remote: Remote) -> Value:
        """What one source of a resolved ADD is, for its key; fetched only where nothing else tells."""
        if isinstance(remote, WebFile):
            _, checksum = self._tools.gate.file(remote, checksum_of(instruction))
            digest = checksum or (await self.file(remote).wait()).digest
            return "url", remote.name, str(digest)
        found = await self.commit(remote).wait()
        commit = found.peeled or found.commit
        kept = found.name if remote.keep_git_dir else None
        return "git", commit, remote.subdir, kept, int(remote.submodules)

    @property
    def _fetcher(self) -> WebFetcher:
        if self._web is None:
            self._web = WebFetcher(self._tools)
            self._job.closing.push_async_callback(self._web.aclose)
        return self._web

    def _flight(
        self,
        key: Hashable,
        work: Callable[..., Awaitable[T]],
        *args: Any,
        label: str | None = None,
    ) -> Future[T]:
        if key not in self._flights:
            named = label or f"fetch {args[0].shown}"
            self._flights[key] = self._job.ledger.spawn(self._job.nursery, named, work, *args)
        return self._flights[key]


def fetch_tools(job: Job, request: BuildRequest) -> FetchTools:
    """What a build fetches with: its secrets, and the agent that ``--ssh default`` names."""
    settings = job.registries.settings
    return FetchTools(
        job.store,
        job.reporter,
        environ=settings.environ,
        secrets=secrets_of(request.run),
        ssh=request.run.ssh.get("default"),
        policy=settings.policy,
        chance=settings.chance,
        gate=request.gate,
    )


def directory_of_file(fetched: FetchedFile, directory: Path) -> DirectoryContext:
    """The context that a URL of one file is: the file, called ``context`` (dockerui ``NamedContext``)."""
    target = directory / "context"
    shutil.copyfile(fetched.path, target)
    target.chmod(_FILE_MODE)
    os.utime(target, ns=(fetched.modified_ns, fetched.modified_ns))
    return DirectoryContext(directory)


def remote_of(instruction: Add, source: str) -> Remote | None:
    """What ``source`` of a resolved ADD names, as its flags change it; None if it is a path."""
    remote = parse_remote(source)
    if not isinstance(remote, GitReference):
        return remote
    keep = instruction.keep_git_dir if remote.keep_git_dir is None else remote.keep_git_dir
    return replace(remote, keep_git_dir=keep, commit=remote.commit or instruction.checksum)


def _repositories(remotes: Iterable[Remote | None]) -> list[GitReference]:
    return [remote for remote in remotes if isinstance(remote, GitReference)]


def checksum_of(instruction: Add) -> Digest | None:
    """What the content of a URL must be."""
    return Digest.parse(instruction.checksum) if instruction.checksum else None


def _file_source(file: WebFile, fetched: FetchedFile, *, unpack: bool) -> CopySource:
    entry = Entry(
        file.name,
        Kind.FILE,
        _FILE_MODE,
        mtime_ns=fetched.modified_ns,
        size=fetched.size,
        source=FileSource(str(fetched.path)),
    )
    return CopySource(file.name, file.name, (entry,), unpack=unpack)


def _tree_source(checkout: Checkout, excludes: tuple[str, ...]) -> CopySource:
    return Selection(excludes).find(DirectoryContext(checkout.path), "/")[0]
