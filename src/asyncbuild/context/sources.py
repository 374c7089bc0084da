"""Finding what COPY and ADD name, in a context or in a root: the same rules for both.

As in BuildKit (dockerfile2llb ``dispatchCopy``, fsutil ``copy``): wildcards are Go's; a source that is
a symlink is followed, inside its tree, and keeps its own name; links inside a directory are kept; a
wildcard that matches nothing copies nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from asyncbuild.errors import SourceNotFound
from asyncbuild.layers.changeset import Entry
from asyncbuild.layers.paths import (
    BadPattern,
    Names,
    clean,
    glob,
    has_wildcards,
    join,
    parent_of,
    unescape,
)


class SourceTree(Names, Protocol):
    """A context, or the view of a root."""

    def walk(self, path: str, /, *, hardlinks: bool = ...) -> Iterable[Entry]:
        """The entry at ``path`` and all below it, parents first; hardlinks as HARDLINK entries."""


@dataclass(frozen=True, slots=True)
class CopySource:
    """One thing to copy.

    ``name`` is what it is called when it is put into a directory; ``path`` is where it really is in
    its tree. ``entries`` are it and everything below it, parents first, with paths in its tree.
    """

    name: str
    path: str
    entries: tuple[Entry, ...]

    def relative(self, path: str) -> str:
        """A path of ``entries`` (or a hardlink's target) from the source: the source is ``""``."""
        return path[len(self.path) + 1 :] if self.path else path


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A file that the Dockerfile itself holds (a heredoc)."""

    name: str
    data: bytes


def find_sources(
    tree: SourceTree, pattern: str, *, explain: Callable[[str], str | None] | None = None
) -> tuple[CopySource, ...]:
    """What ``pattern`` names in ``tree``, sorted.

    `SourceNotFound` if a name without wildcards is not there; its hint is what ``explain`` says of
    the path, or the nearest name that is. Reads directories: call it in a thread.
    """
    try:
        paths = glob(tree, pattern)
    except BadPattern as error:
        paths = [path] if tree.lookup(tree.resolve(path := clean(pattern))) is not None else []
        if not paths:
            hint = "to name a character such as [ itself, write [[]"
            raise SourceNotFound(f"{error}", hint=hint) from error
    if not paths and not has_wildcards(pattern):
        raise _not_found(tree, unescape(clean(pattern)), explain)
    return tuple(_source(tree, path, explain) for path in paths)


def _source(tree: SourceTree, path: str, explain: Callable[[str], str | None] | None) -> CopySource:
    real = tree.resolve(path)
    entries = tuple(tree.walk(real, hardlinks=True))
    if not entries:
        raise _not_found(tree, path, explain)
    return CopySource(path.rpartition("/")[2], real, entries)


def _not_found(
    tree: SourceTree, path: str, explain: Callable[[str], str | None] | None
) -> SourceNotFound:
    """The error about ``path``; what a link on the way leads to is said too."""
    real = tree.resolve(path)
    hint = explain(real) if explain is not None else None
    shown = f"/{path}" if real == path else f"/{path} (a link to /{real})"
    return SourceNotFound(f"{shown} does not exist", hint=hint or _nearest(tree, real))


def _nearest(tree: SourceTree, path: str) -> str | None:
    """The nearest name to the first component of ``path`` that is missing."""
    while path and tree.lookup(parent_of(path)) is None:
        path = parent_of(path)
    directory, _, name = path.rpartition("/")
    names = {other.lower(): other for other in tree.names(directory)}
    found = difflib.get_close_matches(name.lower(), names, n=1)
    return f"did you mean /{join(directory, names[found[0]])}?" if found else None
