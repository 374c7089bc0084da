"""Guesses: a COPY need not wait for a base whose files do not matter to it.

Where COPY and WORKDIR put things depends on the base only in so far as it has something at the same place.
Most write below a directory of their own (``/app``), which no base has. So while the base is still on its
way it is assumed to have nothing there, and the files are packed and sent meanwhile. Before a RUN, and
before the stage is done, the base is looked at; if a guess was wrong, the stage is executed again without
any. Nothing of common names (``/usr``, ``/etc``, …) is ever guessed, and no result of a guess is told to
the cache before it was found right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from asyncbuild.build.root import Root
from asyncbuild.layers.changeset import Entry, Kind
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


class Unknown(Exception):
    """A question about the base that cannot be guessed."""


class WrongGuess(Exception):
    """The base has something where it was assumed to have nothing."""


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

    @property
    def pending(self) -> bool:
        """Whether anything is assumed that was not checked."""
        return bool(self._names)

    async def look(self, root: Root, work: Callable[[View], T]) -> T:
        """``work`` upon a view of ``root``: a guessed one if the base is not here and ``work`` can do
        with it. ``work`` may be called twice, in a thread.
        """
        guessed = root.guess(base := GuessedBase()) if self._allowed else None
        if guessed is not None:
            try:
                result = await trio.to_thread.run_sync(work, guessed)
            except Unknown:
                pass
            else:
                self._names |= base.names
                return result
        return await trio.to_thread.run_sync(work, await root.view())

    async def check(self, root: Root) -> None:
        """Wait for the base and compare; raises `WrongGuess`."""
        if not self._names:
            return
        base = await root.without_additions().view()
        if any(base.lookup(name) is not None for name in self._names):
            raise WrongGuess(", ".join(sorted(self._names)))
        self._names.clear()
