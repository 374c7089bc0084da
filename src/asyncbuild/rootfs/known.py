"""A base of which only a listing is here: a tree that knows directories, links and names, and no files."""

from __future__ import annotations

from collections import defaultdict

from asyncbuild.layers.changeset import Entry, InlineSource, Kind
from asyncbuild.layers.listing import Inside, Listing
from asyncbuild.layers.paths import join, parent_of
from asyncbuild.rootfs.trees import Node


class NotKnown(Exception):
    """A question that needs the files themselves."""


class Shallow(Entry):
    """A name of which only the kind is known, and where it leads if it is a link."""

    __slots__ = ()


class KnownTree:
    """A `Tree` of a listing. ``asked`` are the paths whose answers mattered to somebody."""

    def __init__(self, listing: Listing) -> None:
        self._directories = listing.directories
        self._texts = listing.texts
        self._below: dict[str, list[str]] = defaultdict(list)
        for path in listing.directories:
            if path:
                self._below[parent_of(path)].append(path)
        self.asked: set[str] = set()

    def node(self, path: str, /) -> Node | None:
        """What stands at ``path``."""
        self.asked.add(path)
        inside = self._directories.get(path)
        if inside is not None:
            return Node(inside.directory)
        above = self._directories.get(parent_of(path))
        return None if above is None else self._leaf(above, path)

    def children(self, path: str, /) -> dict[str, Node]:
        """What stands in the directory ``path``."""
        inside = self._directories.get(path)
        if inside is None:
            return {}
        paths = [join(path, name) for name in (*inside.links, *inside.others)]
        paths += self._below[path]
        found = {name.rpartition("/")[2]: self.node(name) for name in paths}
        return {name: node for name, node in found.items() if node is not None}

    def _leaf(self, above: Inside, path: str) -> Node | None:
        name = path.rpartition("/")[2]
        if name in above.links:
            return Node(Shallow(path, Kind.SYMLINK, link=above.links[name]))
        kind = above.others.get(name)
        if kind is None:
            return None
        text = self._texts.get(path)
        if text is None:
            return Node(Shallow(path, kind))
        return Node(Shallow(path, kind, size=len(text), source=InlineSource(text)))
