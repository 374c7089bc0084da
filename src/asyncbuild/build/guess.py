"""Guesses: a COPY need not wait for a base whose files do not matter to it.

Where COPY and WORKDIR put things depends on the base only in so far as it has something at the same place.
So while the base is still on its way, its listing answers (`asyncbuild.build.listings`). Where nobody has
that, the base is assumed to have nothing there: most steps write below a directory of their own (``/app``),
which no base has. The files are packed and sent meanwhile. Before a RUN the base is looked at, and after a
guess also before the stage is done; if it is otherwise, the stage is executed again without any of this.
Nothing of common names (``/usr``, ``/srv``, …) is ever guessed, but the beginnings of the base's layers
may tell what it has there (`asyncbuild.build.glimpses`): that is used and checked like a guess. No result
of any of this is told to the cache before it was found right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from asyncbuild.build.root import Known, Root
from asyncbuild.errors import AsyncbuildError
from asyncbuild.layers.changeset import ChangeSet, Entry, Kind
from asyncbuild.layers.header import NANOSECONDS
from asyncbuild.layers.listing import TEXTS
from asyncbuild.records import replace
from asyncbuild.rootfs.known import NotKnown, Shallow
from asyncbuild.rootfs.trees import Node
from asyncbuild.rootfs.view import View

T = TypeVar("T")

COMMON = frozenset(
    [
        *("bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt"),
        *("opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var"),
    ]
)
"""Names that a base may well have (Filesystem Hierarchy Standard)."""
SELDOM_CHANGED = frozenset(["srv", "opt", "mnt", "media"])
"""Names that a base may have, and that a RUN which does not say them leaves alone. Packages write to
``/etc``, ``/usr`` and ``/var``; a new user gets a directory in ``/home``.
"""


class Unknown(NotKnown):
    """A question about the base, what is at ``path``, that cannot be guessed."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class WrongGuess(Exception):
    """The base is not as it was assumed to be. If a listing said so, ``correct`` makes that anew."""

    def __init__(self, paths: Iterable[str], correct: Callable[[], None] = lambda: None) -> None:
        super().__init__(", ".join(sorted(paths)))
        self.correct = correct


class GuessedBase:
    """A tree in a base's place: it has nothing, except that common names cannot be asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def node(self, path: str, /) -> Node | None:
        """Nothing, or `Unknown`; the root is a directory."""
        if not path:
            return Node(Entry("", Kind.DIRECTORY, 0o755))
        self._assume(path)
        return None

    def children(self, path: str, /) -> dict[str, Node]:
        """Nothing, or `Unknown`; what the root holds is unknown."""
        self._assume(path)
        return {}

    def _assume(self, path: str) -> None:
        name = path.partition("/")[0]
        if not name or name in COMMON:
            raise Unknown(path)
        self.names.add(name)


class Guesses:
    """What one execution of a stage assumed of its base and has not checked yet."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed
        self._names: set[str] = set()
        self._listed: list[Known] = []
        self._glimpsed: list[Known] = []

    def pending(self, *, run_follows: bool) -> bool:
        """Whether anything is assumed that will be checked; a listing is if a RUN follows."""
        return bool(self._names or self._glimpsed or (self._listed and run_follows))

    async def look(self, root: Root, work: Callable[[View], T]) -> T:
        """``work`` upon a view of ``root``: if the base is not here and ``work`` can do with that, upon one
        with the base's listing, a guessed base, or a glimpse of it. ``work`` may be called several times,
        in a thread.
        """
        if self._allowed and (known := await root.known()) is not None:
            with suppress(NotKnown, AsyncbuildError):  # an error must be true of the base itself
                return await _upon(known, work, self._listed)
        elif self._allowed and (guessed := root.guess(base := GuessedBase())) is not None:
            try:
                result = await trio.to_thread.run_sync(work, guessed)
            except Unknown as unknown:
                glimpsed = await root.glimpsed(unknown.path)
                if glimpsed is not None:
                    with suppress(NotKnown, AsyncbuildError):
                        return await _upon(glimpsed, work, self._glimpsed)
            else:
                self._names |= base.names
                return result
        return await trio.to_thread.run_sync(work, await root.view())

    async def check(self, root: Root, *, at_end: bool = False) -> None:
        """Wait for the base and compare; raises `WrongGuess`. ``at_end`` of a stage a listing is taken at
        its word: nobody needs the base any more.
        """
        if at_end:
            self._listed.clear()
        if not self.pending(run_follows=True):
            return
        base = await root.without_additions().view()
        if any(base.lookup(name) is not None for name in self._names):
            raise WrongGuess(self._names)
        for known in (*self._listed, *self._glimpsed):
            truth = await known.truth.view()
            await trio.to_thread.run_sync(_compare, known, truth)
        self._names.clear()
        self._listed.clear()
        self._glimpsed.clear()


async def foretell(root: Root, work: Callable[[View], T]) -> T:
    """``work`` upon what a listing tells of ``root``, where there is one, else upon a guess, else upon a
    glimpse, `NotKnown` if none does; nothing checks it later.
    """
    known = await root.known()
    if known is not None:
        return await _upon(known, work, [])
    try:
        return await trio.to_thread.run_sync(work, View([GuessedBase()]))
    except Unknown as unknown:
        glimpsed = await root.glimpsed(unknown.path)
        if glimpsed is None:
            raise
        return await _upon(glimpsed, work, [])


async def _upon(known: Known, work: Callable[[View], T], used: list[Known]) -> T:
    """``work`` upon a view of what is known; then that is among what was ``used``."""
    result = await trio.to_thread.run_sync(work, known.view)
    _check_whole(result)
    used.append(known)
    return result


def _compare(known: Known, truth: View) -> None:
    listed = View([known.tree])
    for path in tuple(known.tree.asked):
        if _told(listed, path) != _told(truth, path):
            raise WrongGuess([path], partial(known.distrust, known.truth))


def _told(view: View, path: str) -> object:
    """What a listing tells of a path."""
    entry = view.lookup(path)
    if entry is None:
        return None
    if entry.kind is Kind.DIRECTORY:
        # layers that we make tell whole seconds, and none need tell the root's time
        return replace(entry, mtime_ns=entry.mtime_ns // NANOSECONDS if path else 0)
    read = path in TEXTS and entry.kind is Kind.FILE
    return entry.kind, entry.link, view.read(path) if read else None


def _check_whole(result: object) -> None:
    """`NotKnown` if a change set has something in it of which only the kind is known."""
    if isinstance(result, ChangeSet):
        for entry in result.additions:
            if isinstance(entry, Shallow):
                raise NotKnown(entry.path)
