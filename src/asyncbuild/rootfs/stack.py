"""From unpacked layers to the lower directories of an overlay mount.

Layers are unpacked each on its own, so that they unpack in parallel and are shared. The truth is what
applying their tars in order onto one root gives. Where a layer depends on what lies below it is
mended, once for each chain of layers (ChainID):

- a directory that the tar needs but does not name (implicit) has the attributes of the directory below;
- a hardlink to a file of a lower layer is that file;
- a file below a path that is a symlink in a lower layer reaches the link's target. Only implicit
  directories are such paths: an entry for the directory itself replaces the symlink.

The first two take a small directory of their own above the layer, the last a re-arranged clone of the
layer, made of hardlinks. An opaque root, which overlayfs does not honour, ends the list.

The time of the root directory alone is not worth a mend: it is never in a layer that we make.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from asyncbuild.errors import InputError, LayerError
from asyncbuild.image.digest import DiffId, chain_id
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.paths import ancestors, join, parent_of, resolve_links
from asyncbuild.records import dataclass, replace
from asyncbuild.rootfs.mending import Placed, write_mend
from asyncbuild.rootfs.trees import DirectoryTree, Node
from asyncbuild.rootfs.view import View


class StackLayer(Protocol):
    """An unpacked layer: its directory in overlayfs' lower format, and its facts."""

    @property
    def diff_id(self) -> DiffId:
        """What the layer is."""

    @property
    def path(self) -> Path:
        """Its directory."""

    @property
    def facts(self) -> UnpackedFacts:
        """What unpacking could not decide."""


class StackMend(Protocol):
    """A directory above a layer, or in its place."""

    @property
    def path(self) -> Path:
        """Its directory."""

    @property
    def replaces(self) -> bool:
        """Whether it stands in the layer's place."""


class Mends(Protocol):
    """Where mends are kept (the store)."""

    def mend(self, chain: DiffId, /) -> StackMend | None:
        """The mend of the topmost layer of ``chain``, if there is one."""

    def new_mend(self) -> Path:
        """A work directory with an empty ``fs/``, on the layers' file system."""

    def commit_mend(self, work: Path, chain: DiffId, /, *, replaces: bool) -> StackMend:
        """Keep what was made in ``work``."""


def lower_directories(layers: Sequence[StackLayer], mends: Mends) -> list[Path]:
    """The overlay lower directories, topmost first, of ``layers``, bottommost first.

    Reads the layers and may write mends: call it in a thread. `LayerError` if a hardlink names a
    file that no layer has, or if names lead nowhere (a loop of links).
    """
    try:
        return _lower_directories(layers, mends)
    except InputError as error:
        raise LayerError(error.message) from error


def _lower_directories(layers: Sequence[StackLayer], mends: Mends) -> list[Path]:
    lower: list[Path] = []
    below: list[DirectoryTree] = []
    chain: DiffId | None = None
    for layer in layers:
        chain = chain_id(chain, layer.diff_id)
        own = DirectoryTree(layer.path)
        root = own.node("")
        if root is not None and root.opaque:
            lower, below = [], []
        directories = _mended(layer, own, View(below), _Shelf(mends, chain))
        lower = [*directories, *lower]
        below = [*map(DirectoryTree, directories), *below]
    return lower


@dataclass(frozen=True, slots=True)
class _Shelf:
    """The place of one layer's mend."""

    mends: Mends
    chain: DiffId

    def find(self) -> StackMend | None:
        return self.mends.mend(self.chain)

    def keep(self, placed: dict[str, Placed], *, replaces: bool) -> StackMend:
        work = self.mends.new_mend()
        write_mend(work / "fs", placed)
        return self.mends.commit_mend(work, self.chain, replaces=replaces)


def _mended(layer: StackLayer, own: DirectoryTree, below: View, shelf: _Shelf) -> list[Path]:
    facts = layer.facts
    if not facts.outside_links and (not facts.implicit_directories or not below.trees):
        return [layer.path]
    mend = shelf.find()
    if mend is None:
        mending = _Mending(layer, own, below)
        placed, replaces = mending.rearranged(), True
        if placed is None:
            placed, replaces = mending.covering(), False
        if not placed:
            return [layer.path]
        mend = shelf.keep(placed, replaces=replaces)
    return [mend.path] if mend.replaces else [mend.path, layer.path]


class _Mending:
    """What one layer needs, decided by looking at it and below it."""

    def __init__(self, layer: StackLayer, own: DirectoryTree, below: View) -> None:
        self._root = layer.path
        self._own = own
        self._below = below
        self._implicit = set(layer.facts.implicit_directories)
        self._links = layer.facts.outside_links
        for path, _ in self._links:
            missing = (up for up in ancestors(path) if own.node(up) is None)
            self._implicit.update(missing)

    def covering(self) -> dict[str, Placed]:
        """Directories with the attributes of those below, and hardlinks: what lies above the layer."""
        placed: dict[str, Placed] = {}
        for path in self._implicit:
            mine, attributes = self._own.node(path), self._attributes(path)
            if mine is None or mine.entry is None or _differ(path, mine.entry, attributes):
                placed[path] = Placed(attributes)
        for path, target in self._links:
            placed[path] = self._linked(path, target)
        for path in list(placed):
            for up in ["", *ancestors(path)]:
                placed.setdefault(up, Placed(self._attributes(up)))
        return placed

    def rearranged(self) -> dict[str, Placed] | None:
        """The whole layer with names below symlinks moved to their targets; None if none is."""
        visible = (self._lower(path) for path in self._implicit)
        if not any(entry is not None and entry.kind is Kind.SYMLINK for entry in visible):
            return None
        clone = _Clone(self._below, self._implicit)
        pending = [("", node)] if (node := self._own.node("")) is not None else []
        while pending:
            path, node = pending.pop()
            clone.add(path, node, f"{self._root}/{path}")
            if node.entry is not None and node.entry.kind is Kind.DIRECTORY:
                inside = sorted(self._own.children(path).items(), reverse=True)
                pending.extend((join(path, name), child) for name, child in inside)
        for path, target in self._links:
            clone.link(path, clone.file(target, path) or self._linked(path, target))
        return clone.placed

    def _lower(self, path: str) -> Entry | None:
        """What lies below at ``path``, unless this layer hides it."""
        for up in ("", *ancestors(path)):
            node = self._own.node(up)
            if up != path and node is not None and node.opaque:
                return None
        return self._below.lookup(path)

    def _attributes(self, path: str) -> Entry:
        """The directory ``path`` as it must look."""
        mine = self._own.node(path)
        if path in self._implicit:
            lower = self._lower(path)
            if lower is not None and lower.kind is Kind.DIRECTORY:
                return lower
        if mine is not None and mine.entry is not None:
            return mine.entry
        return Entry(path, Kind.DIRECTORY, 0o755)

    def _linked(self, path: str, target: str) -> Placed:
        """The file that the hardlink ``path`` is, found below or else in the layer itself."""
        for view in (self._below, View([self._own, *self._below.trees])):
            found = view.lookup(view.resolve(target, follow_last=False))
            if found is not None and found.kind is not Kind.DIRECTORY:
                return Placed(found.moved(path))
        raise LayerError(f"/{path} is a hardlink to /{target}, which no layer has")


class _Clone:
    """A layer's tree, built anew with symlinks of the layers below followed."""

    def __init__(self, below: View, implicit: set[str]) -> None:
        self.placed: dict[str, Placed] = {}
        self._below = below
        self._implicit = implicit
        self._moved: dict[str, str] = {}

    def add(self, path: str, node: Node, host: str) -> None:
        """Put what the layer has at ``path`` (parents come first) where it belongs."""
        real = join(self._parent(path), path.rpartition("/")[2])
        if node.entry is not None and node.entry.kind is Kind.DIRECTORY:
            if path in self._implicit:
                self._moved[path] = self._implied(real, node)
            else:
                self._moved[path] = real
                self._put(real, Placed(node.entry.moved(real), opaque=node.opaque))
        else:
            entry = None if node.entry is None else node.entry.moved(real)
            self._put(real, Placed(entry, host=host))

    def file(self, target: str, path: str) -> Placed | None:
        """What the layer itself has at ``target`` by another name, to be placed at ``path`` too: a tar
        names a file before the hardlinks to it.
        """
        real = join(resolve_links(self._read_link, parent_of(target)), target.rpartition("/")[2])
        found = self.placed.get(real)
        if found is None or found.entry is None or found.entry.kind is Kind.DIRECTORY:
            return None
        return replace(found, entry=found.entry.moved(path))

    def link(self, path: str, file: Placed) -> None:
        """Put a hardlink to a file of a lower layer, or a moved one, where it belongs."""
        real = join(self._parent(path), path.rpartition("/")[2])
        self._put(real, file)

    def _parent(self, path: str) -> str:
        if not path:
            return ""
        parent = parent_of(path)
        if parent not in self._moved:
            default = Node(Entry(parent, Kind.DIRECTORY, 0o755))
            where = join(self._parent(parent), parent.rpartition("/")[2])
            self._moved[parent] = self._implied(where, default) if parent else ""
        return self._moved[parent]

    def _implied(self, path: str, node: Node) -> str:
        """Follow a directory without an entry, make sure of it, and say where it is."""
        real = resolve_links(self._read_link, path)
        lower = self._lower(real)
        if lower is not None and lower.kind is not Kind.DIRECTORY:
            real = path  # a file cannot hold anything: the directory takes its place
        assert node.entry is not None
        for up in ["", *ancestors(real), real]:
            old = self.placed.get(up)
            if old is not None and old.entry is not None:
                if old.entry.kind is not Kind.DIRECTORY:
                    raise LayerError(f"/{up} is no directory, but the layer has names below it")
                continue
            lower = None if old is not None else self._lower(up)
            if lower is None or lower.kind is not Kind.DIRECTORY:
                lower = replace(node.entry, path=up)
            self.placed[up] = Placed(lower, opaque=old is not None)
        if node.opaque:
            self.placed[real] = replace(self.placed[real], opaque=True)
        return real

    def _put(self, path: str, new: Placed) -> None:
        """Content of a layer wins over its own whiteout, and hides what is below a new directory."""
        old = self.placed.get(path)
        if new.entry is None and old is not None and old.entry is not None:
            if old.entry.kind is Kind.DIRECTORY:
                self.placed[path] = replace(old, opaque=True)
            return
        if new.entry is not None and new.entry.kind is Kind.DIRECTORY and old is not None:
            new = replace(new, opaque=new.opaque or old.opaque or old.entry is None)
        elif old is not None and old.entry is not None and old.entry.kind is Kind.DIRECTORY:
            for inside in [name for name in self.placed if name.startswith(f"{path}/")]:
                del self.placed[inside]
        self.placed[path] = new

    def _lower(self, path: str) -> Entry | None:
        ups = ("", *ancestors(path))
        if any(up in self.placed and self.placed[up].opaque for up in ups if up != path):
            return None
        return self._below.lookup(path)

    def _read_link(self, path: str) -> str | None:
        mine = self.placed.get(path)
        entry = self._lower(path) if mine is None else mine.entry
        return entry.link if entry is not None and entry.kind is Kind.SYMLINK else None


def _differ(path: str, mine: Entry, other: Entry) -> bool:
    if path == "":
        other = replace(other, mtime_ns=mine.mtime_ns)
    return mine != other
