"""A base of which the beginnings of its layers are here: a tree that knows of a few names what they are.

What it tells is likely and not certain, so who uses it compares ``asked`` with the base when that is here.
"""

from __future__ import annotations

from collections.abc import Sequence

from asyncbuild.layers.beginning import Beginning
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.paths import ancestors
from asyncbuild.records import replace
from asyncbuild.rootfs.known import NotKnown, Shallow
from asyncbuild.rootfs.trees import WHITEOUT, DirectoryTree, Node, Tree
from asyncbuild.rootfs.view import View


class BegunTree:
    """A `Tree` of the beginning of a layer; `NotKnown` for names that it does not tell of."""

    def __init__(self, beginning: Beginning) -> None:
        self._beginning = beginning
        self._implied = {""}
        for path in (*beginning.entries, *beginning.hidden, *beginning.opaque):
            self._implied.update(ancestors(path))
        self._implied |= beginning.opaque

    def node(self, path: str, /) -> Node | None:
        """What the layer says at ``path``. Its own content wins over its own whiteout."""
        begun = self._beginning
        if path and not begun.tells(path.partition("/")[0]):
            raise NotKnown(path)
        entry = begun.entries.get(path)
        opaque = path in begun.opaque or path in begun.hidden
        if entry is not None:
            return Node(entry, opaque=opaque and entry.kind is Kind.DIRECTORY)
        if path in self._implied:
            return Node(Entry(path, Kind.DIRECTORY, 0o755), opaque=opaque, implied=True)
        return WHITEOUT if path in begun.hidden else None

    def children(self, path: str, /) -> dict[str, Node]:
        """Never known."""
        raise NotKnown(path)


class LooseTree(DirectoryTree):
    """A layer unpacked alone, before anything was mended: what it only implies is as it is below."""

    def __init__(self, path: str, facts: UnpackedFacts) -> None:
        super().__init__(path)
        self._implicit = frozenset(facts.implicit_directories)

    def node(self, path: str, /) -> Node | None:
        """What stands at ``path``."""
        found = super().node(path)
        return replace(found, implied=True) if found and path in self._implicit else found


class GlimpsedTree:
    """A `Tree` of what ``layers``, topmost first, are likely to show. ``asked`` are the paths whose answers
    mattered to somebody; the root's are the same for every base.
    """

    def __init__(self, layers: Sequence[Tree]) -> None:
        self._view = View(layers)
        self.asked: set[str] = set()

    def node(self, path: str, /) -> Node | None:
        """What stands at ``path``: of a file no more than that there is one."""
        if not path:
            return Node(Entry("", Kind.DIRECTORY, 0o755))
        entry = self._view.lookup(path)
        self.asked.add(path)
        if entry is None or entry.kind is Kind.DIRECTORY:
            return None if entry is None else Node(entry)
        return Node(Shallow(path, entry.kind, link=entry.link))

    def children(self, path: str, /) -> dict[str, Node]:
        """Never known."""
        raise NotKnown(path)
