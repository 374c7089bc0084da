"""What a COPY takes of another stage, found with as little of that stage as will do.

A stage that was cached whole has nothing here: neither its base nor the layers that a look-up gave. So its
files are looked for in three places, one after another:

1. in its own layers from the top down, as long as each path is a file there: nothing below can change it;
2. in its own layers upon a listing: of the whole stage, so that only the layers are fetched that have what
   is wanted; or of its base, for most directories that a stage makes (``/out``) are none of the base's.
   What is found may rest on the listing as a COPY's destination may (ADR 13);
3. in the whole root, and what that says is what counts: an error is never taken from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing, suppress

import trio

from asyncbuild.build.root import Root
from asyncbuild.build.waves import is_pattern
from asyncbuild.context.directory import DirectoryContext
from asyncbuild.context.selection import Selection
from asyncbuild.context.sources import CopySource, SourceTree
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.errors import AsyncbuildError
from asyncbuild.records import replace
from asyncbuild.rootfs.known import NotKnown, Shallow
from asyncbuild.rootfs.view import View

Found = list[CopySource]


def find_path(instruction: ins.Copy | ins.Add, source: str, tree: SourceTree) -> Found:
    """What one source that is a path names, as the flags have it. Blocks: it reads directories."""
    parents = isinstance(instruction, ins.Copy) and instruction.parents
    selection = Selection(instruction.excludes, parents)
    explain = tree.explain if isinstance(tree, DirectoryContext) else None
    unpack = isinstance(instruction, ins.Add) and instruction.unpack is not False
    found = selection.find(tree, source, explain=explain)
    return [replace(item, unpack=unpack) for item in found]


async def find_in_root(root: Root, instruction: ins.Copy) -> Found:
    """What ``instruction`` takes of ``root``; raises what `find_path` does, and what a fetch may."""

    def find(view: View) -> Found:
        return [item for path in instruction.sources for item in find_path(instruction, path, view)]

    paths = instruction.sources
    if not instruction.parents and not any(map(is_pattern, paths)):
        top = await root.deciding(paths)
        if top is not None:
            return await trio.to_thread.run_sync(find, top)
    async with aclosing(root.nearly()) as views:
        async for view in views:
            with suppress(NotKnown, AsyncbuildError):
                return await trio.to_thread.run_sync(_whole, find, view)
    return await trio.to_thread.run_sync(find, await root.view())


def _whole(find: Callable[[View], Found], view: View) -> Found:
    """What is found; `NotKnown` if something in it is only known by its name."""
    found = find(view)
    for item in found:
        for entry in item.entries:
            if isinstance(entry, Shallow):
                raise NotKnown(entry.path)
    return found
