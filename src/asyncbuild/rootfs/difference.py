"""The one change set that several steps make together.

What the steps' trees hold is looked at through a view of them alone; what the image holds in the end
through the view of everything. So nothing of the base is read but what a step has touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asyncbuild.layers.changeset import ChangeSet, Entry, Kind
from asyncbuild.layers.paths import below as is_below
from asyncbuild.layers.paths import join
from asyncbuild.rootfs.trees import Tree
from asyncbuild.rootfs.view import View


def difference(trees: Sequence[Tree], below: View) -> ChangeSet:
    """What ``trees`` (topmost first) change of ``below``, as one change set. Blocks: it reads directories.

    A directory that is as it was, and in which nothing is new, is left out.
    """
    above = View(trees)
    merged = below.with_top(*trees)
    deletions = set(_deletions(trees, below, merged))
    additions = list(_additions(above, below, merged))
    for entry in additions:
        old = below.lookup(entry.path)
        if old is not None and _takes_a_place(old, entry):
            deletions.add(entry.path)
    return ChangeSet.of(additions, deletions)


def _additions(above: View, below: View, merged: View) -> Iterator[Entry]:
    """Everything in ``above``, with the attributes that it has in the end."""
    held: list[Entry] = []  # unchanged directories on the way down, none of them told yet
    for entry in above.walk(hardlinks=True):
        while held and held[-1].path and not is_below(entry.path, held[-1].path):
            held.pop()
        if entry.kind is not Kind.DIRECTORY:
            yield from held
            held.clear()
            yield entry
            continue
        found = merged.lookup(entry.path) or entry
        held.append(found)
        if found.path and found != below.lookup(found.path):
            yield from held
            held.clear()


def _deletions(trees: Sequence[Tree], below: View, merged: View) -> Iterator[str]:
    """What was there and is not any more; of a whole directory only its own name."""
    pending = [""]
    while pending:
        directory = pending.pop()
        inside = {name for tree in trees for name in tree.children(directory)}
        hidden = any(_hides(tree, directory) for tree in trees)
        names = set(below.names(directory)) if hidden else set()
        for name in sorted(inside | names):
            path = join(directory, name)
            old, new = below.lookup(path), merged.lookup(path)
            if old is None:
                continue
            if new is None:
                yield path
            elif old.kind is Kind.DIRECTORY and new.kind is Kind.DIRECTORY:
                pending.append(path)


def _hides(tree: Tree, directory: str) -> bool:
    """Whether ``tree`` hides what lies below it in the directory, or did before it was made again."""
    node = tree.node(directory)
    if node is None:
        return False
    return node.opaque or node.entry is None or node.entry.kind is not Kind.DIRECTORY


def _takes_a_place(old: Entry, new: Entry) -> bool:
    """Whether the old one must go before the new one comes: a directory never replaces anything else."""
    return (old.kind is Kind.DIRECTORY) != (new.kind is Kind.DIRECTORY)
