"""The ways of one registry's client: which caller is asked for a repository, and who is asked next.

A mirror that gave no answer is not asked again in this build. What a mirror cannot give is asked of the
next way; the error of the last one counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from asyncbuild.errors import RegistryError, RegistryUnavailable
from asyncbuild.image.manifest import Descriptor
from asyncbuild.records import dataclass
from asyncbuild.registry.auth import Scope
from asyncbuild.registry.caller import Caller
from asyncbuild.registry.download import BlobPart, BlobReader
from asyncbuild.registry.places import Route

T = TypeVar("T")

SMALL_PART = 1 << 20
"""Bytes: a download up to this size waits for no other one."""


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A caller, and the repository's name there."""

    route: Route
    caller: Caller

    @property
    def repository(self) -> str:
        """The repository's name there."""
        return self.route.repository


class Ways(Protocol):
    """What a client needs of `Registries`."""

    def pull(self, repository: str, *, tag: bool) -> tuple[Way, ...]:
        """Every way to pull by tag or digest, in order, without mirrors that are dead; never empty."""

    def push(self, repository: str) -> Way:
        """The way to push."""

    def passed_over(self, way: Way, error: RegistryError) -> None:
        """A way that is not the last one failed."""


async def try_each(ways: Ways, chosen: tuple[Way, ...], once: Callable[[Way], Awaitable[T]]) -> T:
    """What the first way gives that can; raises what the last one raises."""
    for way in chosen[:-1]:
        try:
            return await once(way)
        except RegistryError as error:
            ways.passed_over(way, error)
    return await once(chosen[-1])


class BlobChunks(Protocol):
    """A blob's bytes: an async iterator of chunks."""

    @property
    def ranged(self) -> bool:
        """Whether the last answer was for the range alone: the registry knows ranges."""

    def __aiter__(self) -> BlobChunks: ...

    async def __anext__(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Span:
    """A blob, from byte ``start`` to before byte ``end``."""

    descriptor: Descriptor
    start: int
    end: int


@contextlib.asynccontextmanager
async def open_blob(ways: Ways, repository: str, span: Span) -> AsyncIterator[BlobChunks]:
    """The bytes of ``span``; the first request is made on entry."""
    reader = RoutedReader(ways, repository, span)
    try:
        await reader.open()
        yield reader
    finally:
        await reader.aclose()


class RoutedReader:
    """Reads a blob from the first way that has it, and goes on at the next where one fails for good."""

    def __init__(self, ways: Ways, repository: str, span: Span) -> None:
        self._ways = ways
        self._left = list(ways.pull(repository, tag=False))
        self._span = span
        self._position = span.start
        self._way = self._left[0]
        self._reader: BlobReader | None = None
        self._holds = False

    @property
    def ranged(self) -> bool:
        """Whether the last answer was for the range alone."""
        return self._reader is not None and self._reader.ranged

    async def open(self) -> None:
        """Ask the ways that are left, until one answers."""
        while True:
            self._way = self._left.pop(0)
            try:
                await self._open_way()
            except RegistryError as error:
                await self._pass_over(error)
            else:
                return

    async def _open_way(self) -> None:
        part = BlobPart(self._way.repository, self._span.descriptor, self._position, self._span.end)
        if self._span.end - self._position > SMALL_PART:
            await self._way.caller.downloads.acquire_on_behalf_of(self)
            self._holds = True
        self._reader = BlobReader(self._way.caller, part)
        await self._reader.open()

    async def _pass_over(self, error: RegistryError) -> None:
        await self.aclose()
        if not self._left:
            raise error
        self._ways.passed_over(self._way, error)

    def __aiter__(self) -> RoutedReader:
        return self

    async def __anext__(self) -> bytes:
        while True:
            assert self._reader is not None
            try:
                chunk = await self._reader.__anext__()
            except RegistryUnavailable as error:
                await self._pass_over(error)
                await self.open()
            else:
                self._position += len(chunk)
                return chunk

    async def aclose(self) -> None:
        """Free the connection."""
        if self._holds:
            self._holds = False
            self._way.caller.downloads.release_on_behalf_of(self)
        if self._reader is not None:
            await self._reader.aclose()


def expect_everywhere(ways: Ways, repository: str, actions: tuple[str, ...]) -> None:
    """Say ahead what will be done with a repository, on every way to it."""
    for way in ways.pull(repository, tag=True) if "pull" in actions else ():
        way.caller.authorizer.expect(Scope.of(way.repository, "pull"))
    if "push" in actions:
        way = ways.push(repository)
        way.caller.authorizer.expect(Scope.of(way.repository, *actions))
