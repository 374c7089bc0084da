"""Finding what COPY and ADD name, in a context or in a root: the same rules for both.

As in BuildKit (dockerfile2llb ``dispatchCopy``, fsutil ``copy``): wildcards are Go's; a source that is
a symlink is followed, inside its tree, and keeps its own name; links inside a directory are kept; a
wildcard that matches nothing copies nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from itertools import islice
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
from asyncbuild.records import dataclass


class SourceTree(Names, Protocol):
    """A context, or the view of a root."""

    def walk(self, path: str, /, *, hardlinks: bool = ...) -> Iterable[Entry]:
        """The entry at ``path`` and all below it, parents first; hardlinks as HARDLINK entries."""


@dataclass(frozen=True, slots=True)
class CopySource:
    """One thing to copy.

    ``name`` is what it is called when it is put into a directory; ``path`` is where it really is in
    its tree. ``entries`` are it and everything below it, parents first, with paths in its tree.
    ``passing`` are directories among them that are there only for what is in them. ``unpack``: if it is
    an archive, it is unpacked (ADD).
    """

    name: str
    path: str
    entries: tuple[Entry, ...]
    passing: frozenset[str] = frozenset()
    unpack: bool = False

    def relative(self, path: str) -> str:
        """A path of ``entries`` (or a hardlink's target) from the source: the source is ``""``."""
        return path[len(self.path) + 1 :] if self.path else path


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A file that the Dockerfile itself holds (a heredoc)."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class UnpackedArchive:
    """The content of an archive that ADD unpacks, on disk, but without its root.

    ``entries`` are sorted, parents first. ``implicit`` are the directories among them that the archive
    has no entry for; ``links`` are hardlinks to files that it does not hold.
    """

    name: str
    entries: tuple[Entry, ...]
    implicit: frozenset[str] = frozenset()
    links: tuple[Entry, ...] = ()


Explain = Callable[[str], str | None]
"""Says, for people, why a path counts as missing (an ignore file hides it); None if it is not so."""


def find_sources(
    tree: SourceTree, pattern: str, *, explain: Explain | None = None, shallow: bool = False
) -> tuple[CopySource, ...]:
    """What ``pattern`` names in ``tree``, sorted; ``shallow`` leaves out what is below it.

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
        raise not_found(tree, unescape(clean(pattern)), explain)
    return tuple(_source(tree, path, explain, shallow=shallow) for path in paths)


def _source(tree: SourceTree, path: str, explain: Explain | None, *, shallow: bool) -> CopySource:
    real = tree.resolve(path)
    walked = tree.walk(real, hardlinks=True)
    entries = tuple(islice(walked, 1) if shallow else walked)
    if not entries:
        raise not_found(tree, path, explain)
    return CopySource(path.rpartition("/")[2], real, entries)


def not_found(tree: SourceTree, path: str, explain: Explain | None) -> SourceNotFound:
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
