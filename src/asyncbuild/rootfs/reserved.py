"""What in a root is not the image's while it is built in ``/``: never read, written or removed.

Names are relative and normal (``etc/hosts``). What is in a reserved directory is reserved with it; the
directories above are the image's, but they stay directories.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from asyncbuild.layers.changeset import Kind
from asyncbuild.layers.paths import ancestors, join
from asyncbuild.records import dataclass
from asyncbuild.rootfs.trees import Node, Tree
from asyncbuild.rootfs.view import View

_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Reserved:
    """``names`` are reserved; ``leading`` are the directories above them, and others that stay although
    what is in them goes.
    """

    names: frozenset[str] = frozenset()
    leading: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str], standing: Iterable[str] = ()) -> Reserved:
        """From paths; ``standing`` are directories that stay. The root itself cannot be reserved."""
        reserved = frozenset(filter(None, map(_relative, names)))
        stays = frozenset(filter(None, map(_relative, standing)))
        above = (up for name in (*reserved, *stays) for up in ancestors(name))
        return cls(reserved, frozenset((*stays, *above)) - reserved)

    def holds(self, path: str) -> bool:
        """Whether ``path`` is reserved, or in something that is."""
        return path in self.names or any(up in self.names for up in ancestors(path))

    def and_where_it_differs(self, view: View) -> Reserved:
        """With those leading names where the image has something else than a directory: it cannot be put
        there, and what a command writes there would not be what it means to the image.
        """
        other = set()
        for path in self.leading:
            found = view.lookup(path)
            if found is not None and found.kind is not Kind.DIRECTORY:
                other.add(path)
        return Reserved(self.names | other, self.leading - other) if other else self


NOTHING = Reserved()


class Unreserved:
    """A tree without what is reserved."""

    def __init__(self, tree: Tree, reserved: Reserved) -> None:
        self._tree = tree
        self._reserved = reserved

    def node(self, path: str, /) -> Node | None:
        """What the tree says of a path that is not reserved."""
        return None if self._reserved.holds(path) else self._tree.node(path)

    def children(self, path: str, /) -> dict[str, Node]:
        """What stands in a directory that is not reserved."""
        found = self._tree.children(path)
        return {
            name: node
            for name, node in found.items()
            if join(path, name) not in self._reserved.names
        }


def names_of(path: str) -> Iterator[str]:
    """Where ``path`` leads on this machine, and every link on the way there: without one of these it would
    lead elsewhere.
    """
    links = 0
    waiting = os.path.abspath(path).split("/")[:0:-1]
    at = ""
    while waiting:
        part = waiting.pop()
        if part == "..":
            at = os.path.dirname(at).rstrip("/")
            continue
        if part in ("", "."):
            continue
        here = f"{at}/{part}"
        if os.path.islink(here) and links < _MOST_LINKS:
            links += 1
            yield here
            target = os.readlink(here)
            waiting += target.split("/")[::-1]
            at = "" if target.startswith("/") else at
        else:
            at = here
    yield at or "/"


def _relative(path: str) -> str:
    return os.path.normpath(f"/{path}").strip("/")
