"""What a stage's root holds, read from its layers without mounting them.

A `View` merges an ordered stack of trees, **topmost first**, by the rules of overlayfs
(Documentation/filesystems/overlayfs.rst): a name comes from the topmost tree that has it, a whiteout
hides what is below, a directory merges with the directories below it while each of them is a
directory and none above is opaque. The merged directory has the attributes of its topmost part.
Unlike the kernel a view honours an opaque root.

Trees are immutable while a view reads them: an unpacked layer, the upper directory of a RUN that has
ended, or a `ChangeSet` in memory. Nothing a tree holds leads out of it: symlinks are resolved inside
the root, and a host path is used only once each of its components is known to be a directory.
A view may be read from several threads.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from operator import itemgetter

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import Entry, FileSource, InlineSource, Kind
from asyncbuild.layers.paths import clean, glob, parent_of, resolve_links
from asyncbuild.records import replace
from asyncbuild.rootfs.known import NotKnown
from asyncbuild.rootfs.trees import ChangeSetTree, DirectoryTree, Node, Tree

__all__ = ["ChangeSetTree", "DirectoryTree", "Tree", "View"]

_READ_LIMIT = 1 << 20
_MOST_LINKS = 40


class View:
    """The merged view of ``trees``, topmost first; without trees it is an empty root (scratch)."""

    def __init__(self, trees: Sequence[Tree] = ()) -> None:
        self.trees = tuple(trees)
        self._directories: dict[str, tuple[Tree, ...]] = {}

    def with_top(self, *trees: Tree) -> View:
        """A view with ``trees`` (topmost first) on top of this one."""
        return View((*trees, *self.trees))

    def lookup(self, path: str, /) -> Entry | None:
        """The entry at ``path``, links not followed (lstat); None if there is nothing.

        A file's source is its real path on this machine. The path of a hardlink inside a change set
        gives the file that it names.
        """
        merged = self._merged(path)
        return None if merged.top is None else self._plain(merged.top, path)

    def names(self, path: str, /) -> list[str]:
        """The sorted names in the directory ``path``; empty if it is no directory."""
        return [name for name, _ in self._listing(path, self._parts(path))]

    def resolve(self, path: str, /, *, follow_last: bool = True) -> str:
        """``path`` with symlinks resolved inside the root; see `resolve_links`."""
        return resolve_links(self._read_link, path, follow_last=follow_last)

    def read(self, path: str, /, limit: int = _READ_LIMIT) -> bytes | None:
        """The bytes of the file at ``path``, links followed; None if nothing is there.

        `InputError` if it is no regular file or has more than ``limit`` bytes; `NotKnown` if the tree that
        has it does not know what is in it.
        """
        entry = self.lookup(self.resolve(path))
        if entry is None:
            return None
        if entry.kind is not Kind.FILE:
            raise InputError(f"/{clean(path)} is not a regular file")
        if entry.size > limit:
            raise InputError(f"/{clean(path)} has {entry.size} bytes, more than {limit}")
        return _content(entry)

    def glob(self, pattern: str, /) -> list[str]:
        """The paths that match ``pattern`` (see `asyncbuild.layers.paths.glob`), sorted."""
        return glob(self, pattern)

    def walk(self, path: str = "", /, *, hardlinks: bool = False) -> Iterator[Entry]:
        """The entry at ``path`` and everything below it, parents first, in `path_order`.

        ``path`` is taken as it is: resolve it first. With ``hardlinks`` the second and later names
        of one file are HARDLINK entries that name the first; otherwise each is a FILE.
        """
        first: dict[Hashable, str] = {}
        merged = self._merged(path)
        pending = [(path, merged)] if merged.top is not None else []
        while pending:
            where, merged = pending.pop()
            assert merged.top is not None
            entry = self._plain(merged.top, where)
            if hardlinks and merged.top.identity is not None:
                name = first.setdefault(merged.top.identity, where)
                if name != where:
                    entry = replace(entry, kind=Kind.HARDLINK, link=name, size=0, source=None)
            yield entry
            if entry.kind is Kind.DIRECTORY:
                prefix = f"{where}/" if where else ""
                inside = self._listing(where, tuple(merged.parts))
                pending.extend((prefix + name, below) for name, below in reversed(inside))

    def _read_link(self, path: str) -> str | None:
        entry = self.lookup(path)
        return entry.link if entry is not None and entry.kind is Kind.SYMLINK else None

    def _plain(self, node: Node, path: str) -> Entry:
        entry = node.entry
        for _ in range(_MOST_LINKS):
            if entry is None or entry.kind is not Kind.HARDLINK:
                break
            target = self._merged(entry.link).top
            entry = None if target is None else target.entry
        if entry is None or entry.kind is Kind.HARDLINK:
            raise InputError(f"/{path} is a hardlink to a file that does not exist")
        return entry if entry.path == path else entry.moved(path)

    def _parts(self, path: str) -> tuple[Tree, ...]:
        """The trees whose directories merge at ``path``; empty if it is no directory."""
        known = self._directories.get(path)
        if known is None:
            known = tuple(self._merged(path).parts)
            self._directories[path] = known
        return known

    def _merged(self, path: str) -> _Merged:
        merged = _Merged()
        for tree in self._parts(parent_of(path)) if path else self.trees:
            node = tree.node(path)
            if node is not None and not merged.add(tree, node):
                break
        if not path and merged.top is None:
            merged.top = Node(Entry("", Kind.DIRECTORY, 0o755))
        return merged

    def _listing(self, path: str, parts: tuple[Tree, ...]) -> list[tuple[str, _Merged]]:
        found: dict[str, _Merged] = {}
        for tree in parts:
            for name, node in tree.children(path).items():
                merged = found.get(name)
                if merged is None:
                    merged = found[name] = _Merged()
                merged.add(tree, node)
        return sorted(
            ((name, merged) for name, merged in found.items() if merged.top is not None),
            key=itemgetter(0),
        )


class _Merged:
    """What the trees say at one path, added from the topmost down."""

    __slots__ = ("closed", "parts", "top")

    def __init__(self) -> None:
        self.top: Node | None = None
        self.parts: list[Tree] = []
        self.closed = False

    def add(self, tree: Tree, node: Node) -> bool:
        """Lay ``node`` below what is known; False if what comes further down does not matter."""
        if self.closed:
            return False
        if node.entry is None:
            self.closed = True
        elif node.entry.kind is not Kind.DIRECTORY:
            if self.top is None:
                self.top = node
            self.closed = True
        else:
            if self.top is None or (self.top.implied and not node.implied):
                self.top = node
            self.parts.append(tree)
            self.closed = node.opaque
        return not self.closed


def _content(entry: Entry) -> bytes:
    if isinstance(entry.source, InlineSource):
        return entry.source.data
    if not isinstance(entry.source, FileSource):
        raise NotKnown(entry.path)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(entry.source.path, flags), "rb") as file:
        return file.read()
