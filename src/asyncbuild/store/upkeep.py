"""How much a store holds, and making it less: ``asyncbuild du`` and ``asyncbuild prune``.

Pruning needs the store alone: it holds the store's lock, so no build can begin, and refuses while one
runs. What it takes away is made again when it is needed, so nothing of it can make a build wrong.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from asyncbuild.errors import StoreError
from asyncbuild.records import dataclass
from asyncbuild.store.disk import explained
from asyncbuild.store.layout import Item, Layout
from asyncbuild.store.removal import remove_tree
from asyncbuild.store.store import locked
from asyncbuild.store.workplace import bury_dead, remove_dead

KINDS = ("blob", "layer", "tree", "mend", "record", "cache mount")


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing in a store: how many bytes it takes, and when it came (seconds since the epoch)."""

    kind: str
    name: str
    path: Path
    size: int
    since: float


@dataclass(frozen=True, slots=True)
class PruneRule:
    """What goes: all that came before ``before`` (seconds since the epoch), and of the rest the oldest,
    until at most ``most`` bytes are left. None: no such limit.
    """

    before: float | None = None
    most: int | None = None


def contents(root: Path) -> tuple[Kept, ...]:
    """Everything that the store at ``root`` keeps. Raises `StoreError` if there is none."""
    with explained(root):
        layout = _existing(root)
        return tuple(_kept(item) for item in _items(layout))


def prune(root: Path, rule: PruneRule) -> tuple[Kept, ...]:
    """Remove what ``rule`` says, and what dead builds left; returns what was removed.

    Raises `StoreError` if there is no store, or while a build uses it.
    """
    with explained(root):
        layout = _existing(root)
        with locked(layout.lock):
            bury_dead(layout.tmp)
            if any(not path.name.startswith("dead-") for path in layout.tmp.iterdir()):
                raise StoreError(f"a build uses the store {root}", hint="prune when it has ended")
            going = tuple(_chosen([_kept(item) for item in _items(layout)], rule))
            for kept in going:
                _remove(kept.path, layout.tmp)
            remove_dead(layout.tmp)
        return going


def _chosen(kept: list[Kept], rule: PruneRule) -> Iterator[Kept]:
    left = sum(item.size for item in kept)
    for item in sorted(kept, key=lambda item: (item.since, item.name)):
        old = rule.before is not None and item.since < rule.before
        if old or (rule.most is not None and left > rule.most):
            left -= item.size
            yield item


def _existing(root: Path) -> Layout:
    layout = Layout(root)
    if not (root / "oci-layout").exists():
        raise StoreError(f"there is no store at {root}", hint="name it with --store DIR")
    layout.refuse_foreign()
    return layout


def _items(layout: Layout) -> Iterator[Item]:
    for kind in ("blob", "layer", "mend", "tree", "record"):
        yield from layout.items(kind)
    with contextlib.suppress(FileNotFoundError):
        for path in (layout.root / "cache-mounts").iterdir():
            yield Item("cache mount", path.name, path)


def _kept(item: Item) -> Kept:
    status = item.path.lstat()
    size = _tree_size(item.path) if item.path.is_dir() else status.st_size
    return Kept(item.kind, item.name, item.path, size, status.st_ctime)


def _tree_size(path: Path) -> int:
    """The bytes of all files below, each name of a file counted once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for _, _, files, descriptor in os.fwalk(path):
        for name in files:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total


def _remove(path: Path, tmp: Path) -> None:
    """Out of sight at once, by rename; then for good."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    grave = tmp / f"dead-{os.urandom(8).hex()}"
    path.rename(grave)
    remove_tree(grave)
