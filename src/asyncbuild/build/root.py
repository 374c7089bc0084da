"""A stage's root: the base's directories below, and above them what each step made.

A root is a value: a step makes a new one. Nothing is fetched, written or mounted before a step needs
it: a view needs the base's layers on disk, a RUN needs directories of everything below it, and a COPY
that no RUN sees is never written to disk at all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import trio

from asyncbuild.build.futures import Future, kept
from asyncbuild.build.waves import decided, waves
from asyncbuild.errors import AsyncbuildError, SourceLocation
from asyncbuild.layers.listing import Listing
from asyncbuild.records import dataclass, replace
from asyncbuild.rootfs.glimpsed import GlimpsedTree
from asyncbuild.rootfs.known import KnownTree
from asyncbuild.rootfs.view import DirectoryTree, Tree, View

Directories = tuple[Path, ...]
"""Overlay lower directories, topmost first."""


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """What one step put on top: how to get it as a directory, and what it holds if that is known
    without one (None: look into the directory).
    """

    tree: Tree | None
    directory: Callable[[], Future[Path]]
    size: int = 0
    """Bytes that have to be fetched for the directory."""

    async def look(self) -> Tree:
        """What it holds."""
        return self.tree or DirectoryTree(await self.directory().wait())


@dataclass(frozen=True, slots=True, eq=False)
class BaseFiles:
    """The files of a base image: ``directories`` fetches them, ``arrived`` says whether that is done, and
    ``listing`` is what is known of them without; ``distrust`` is told, with the files, if that is wrong.
    ``glimpse`` tells what they are likely to have at a name at the root, while they are on their way.
    """

    directories: Callable[[], Future[Directories]]
    arrived: Callable[[], bool] = lambda: False
    listing: Callable[[], Future[Listing | None]] = lambda: kept("no listing", None)
    distrust: Callable[[Root], None] = lambda _: None
    glimpse: Callable[[str], Future[tuple[Tree, ...] | None]] = lambda _: kept("no glimpse", None)


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """The base and the lowest ``count`` additions, of which a cache may have a ``listing``; ``arrived``
    says whether they are here.
    """

    count: int
    arrived: Callable[[], bool]
    listing: Callable[[], Future[Listing | None]]
    distrust: Callable[[Root], None]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A view in which a listing or a glimpse (``tree``) stands for files that are not here; ``truth`` is a
    root of them. If it is not as that says, ``distrust`` is to be told.
    """

    view: View
    tree: KnownTree | GlimpsedTree
    truth: Root
    distrust: Callable[[Root], None] = lambda _: None


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """``base`` is asked for only when something needs it; ``additions`` are bottom first.

    ``named_at`` is the FROM that names the base: what is wrong with it is said there. ``stack`` is what may
    be known of the lowest of it without having it.
    """

    base: BaseFiles | None = None
    additions: tuple[Addition, ...] = ()
    named_at: SourceLocation | None = None
    stack: Stack | None = None

    def with_addition(self, addition: Addition) -> Root:
        """This root with one more step's result on top."""
        return replace(self, additions=(*self.additions, addition))

    def without_additions(self) -> Root:
        """The base alone."""
        return self._lowest(0)

    def guess(self, base: Tree) -> View | None:
        """A view with ``base`` in the place of a base that is not here yet; None if there is no need, or
        if more than the base is unknown.
        """
        above = self._trees()
        if self.base is None or self.base.arrived() or above is None:
            return None
        self.base.directories()  # they are on their way meanwhile
        return View([*above, base])

    async def glimpsed(self, path: str) -> Known | None:
        """A view with what the base, which is on its way, is likely to have at the first name of ``path``;
        None if that cannot be told, or if more than the base is unknown.
        """
        name, above = path.partition("/")[0], self._trees()
        if self.base is None or not name or above is None:
            return None
        layers = await self.base.glimpse(name).wait()
        if layers is None:
            return None
        tree = GlimpsedTree(layers)
        return Known(View([*above, tree]), tree, self.without_additions())

    async def known(self) -> Known | None:
        """A view with a listing in the place of a base that is not here, and of the additions that the
        listing tells of; None if there is no need, or no listing. What stands upon these is fetched, if it
        must be.
        """
        told = await self._told()
        if told is None:
            return None
        listing, count, distrust = told
        tree = KnownTree(listing)
        view = View([*await self._look(len(self.additions) - count), tree])
        return Known(view, tree, self._lowest(count), distrust)

    async def nearly(self) -> AsyncGenerator[View]:
        """Views of ever more of the topmost additions, upon a listing of everything below or, where there
        is one, of themselves too. What they show is so; of some files they know the names alone.
        """
        told = await self._told()
        if told is None:
            return
        listing, covered, _ = told
        tree = KnownTree(listing)
        least = len(self.additions) - covered
        sizes = [item.size for item in reversed(self.additions[:covered])]
        for more in [*waves(sizes), len(sizes)]:
            yield View([*await self._look(least + more), tree])

    async def deciding(self, paths: tuple[str, ...]) -> View | None:
        """A view of the topmost additions, if these say all about ``paths``, which are no patterns."""
        sizes = [item.size for item in reversed(self.additions)]
        for count in [*waves(sizes), len(sizes)] if sizes else []:
            view = View(await self._look(count))
            answer = await trio.to_thread.run_sync(decided, view, paths)
            if answer is not False:
                return view if answer else None
        return None

    def start(self) -> None:
        """Fetch everything that is not here yet."""
        if self.base is not None:
            self.base.directories()
        self._start(len(self.additions))

    async def view(self) -> View:
        """Look at the files without mounting anything; waits for the base's layers."""
        self.start()
        above = await self._look(len(self.additions))
        return View([*above, *map(DirectoryTree, await self._base_directories())])

    async def lower_directories(self) -> Directories:
        """Everything as overlay lower directories; writes the change sets that no one needed yet."""
        asked = [addition.directory() for addition in reversed(self.additions)]
        below = await self._base_directories()
        return (*[await directory.wait() for directory in asked], *below)

    async def _told(self) -> tuple[Listing, int, Callable[[Root], None]] | None:
        """A listing, and how many additions it tells of besides the base."""
        if self.stack is not None and not self.stack.arrived():
            listing = await self.stack.listing().wait()
            if listing is not None:
                return listing, self.stack.count, self.stack.distrust
        if self.base is None or self.base.arrived():
            return None
        listing = await self.base.listing().wait()
        return None if listing is None else (listing, 0, self.base.distrust)

    def _trees(self) -> list[Tree] | None:
        """What the additions hold, topmost first; None if that has to be looked at."""
        trees = [item.tree for item in reversed(self.additions) if item.tree is not None]
        return trees if len(trees) == len(self.additions) else None

    def _lowest(self, count: int) -> Root:
        """The base and the ``count`` lowest additions."""
        return replace(self, additions=self.additions[:count], stack=None)

    def _start(self, count: int) -> None:
        """Fetch the ``count`` topmost additions, all of them at once."""
        for addition in self.additions[len(self.additions) - count :]:
            if addition.tree is None:
                addition.directory()

    async def _look(self, count: int) -> list[Tree]:
        """What the ``count`` topmost additions hold, topmost first."""
        self._start(count)
        return [
            await item.look() for item in reversed(self.additions[len(self.additions) - count :])
        ]

    async def _base_directories(self) -> Directories:
        if self.base is None:
            return ()
        try:
            return await self.base.directories().wait()
        except AsyncbuildError as error:
            raise error.at(self.named_at) from error
