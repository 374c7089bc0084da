"""What a mount shows: a path in the context, in another stage, or in an image."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from asyncbuild.build.step import At
from asyncbuild.build.workers import WorkerPool
from asyncbuild.context.directory import DirectoryContext
from asyncbuild.context.sources import Explain, SourceTree, not_found
from asyncbuild.dockerfile.mounts import Mount
from asyncbuild.layers.changeset import ChangeSet, Entry, Kind
from asyncbuild.layers.paths import clean
from asyncbuild.layers.records import set_owner_and_mode
from asyncbuild.plan.nouns import ContextRef, ImageRef, Scratch, StageRef
from asyncbuild.records import dataclass, replace
from asyncbuild.rootfs.view import DirectoryTree, View


@dataclass(frozen=True, slots=True, eq=False)
class MountSource:
    """One source. ``path`` is where it really is in ``tree``, ``name`` what it is called, ``kind`` what
    it is; either ``layers`` (topmost first) or ``context`` holds it. ``identity`` names the tree if its
    content cannot change under that name.
    """

    tree: SourceTree
    path: str
    kind: Kind
    layers: tuple[Path, ...] | None = None
    context: DirectoryContext | None = None
    identity: str | None = None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def entries(self) -> tuple[Entry, ...]:
        """It and all below it, from its own place: a directory is ``""``, a file has its name. Blocks."""
        found = self.tree.walk(self.path, hardlinks=True)
        cut = len(self.path) + 1 if self.path else 0
        if self.kind is not Kind.DIRECTORY:
            return tuple(entry.moved(self.name) for entry in found)
        return tuple(
            replace(entry, path=entry.path[cut:], link=_relative(entry, cut)) for entry in found
        )

    async def copy_to(self, workers: WorkerPool, directory: Path) -> None:
        """Write it into the empty ``directory``, which becomes it if it is one itself."""
        entries = await trio.to_thread.run_sync(self.entries)
        await workers.materialise(ChangeSet.of(entries), directory)
        if self.kind is Kind.DIRECTORY:
            await trio.to_thread.run_sync(_dress, directory, entries[0])


async def find_mount_source(at: At, place: int, mount: Mount) -> MountSource:
    """The source of the RUN's mount at ``place``. Raises `SourceNotFound` if it is not there."""
    session = at.session
    explain: Explain | None = None
    match at.step.sources[place]:
        case StageRef(index):
            root = (await session.stage(index).wait()).root
            layers = await root.lower_directories()
            source = MountSource(await root.view(), "", Kind.DIRECTORY, layers)
        case ImageRef(reference, platform):
            image = await session.supply.image(reference, platform).wait()
            layers = await session.supply.root(image).wait()
            view = View([DirectoryTree(path) for path in layers])
            identity = f"image {image.manifest.digest}"
            source = MountSource(view, "", Kind.DIRECTORY, layers, identity=identity)
        case ContextRef() as ref:
            files = await session.remotes.context(ref).wait()
            explain = files.explain
            source = MountSource(files, "", Kind.DIRECTORY, context=files)
        case Scratch():
            source = MountSource(View(), "", Kind.DIRECTORY, (), identity="scratch")
        case None:
            context = await session.context.wait()
            explain = context.explain
            source = MountSource(context, "", Kind.DIRECTORY, context=context)
    return await trio.to_thread.run_sync(_at_path, source, mount.source, explain)


def _at_path(source: MountSource, path: str, explain: Explain | None) -> MountSource:
    real = source.tree.resolve(clean(path))
    entry = source.tree.lookup(real)
    if entry is None:
        raise not_found(source.tree, clean(path), explain)
    return replace(source, path=real, kind=entry.kind)


def _relative(entry: Entry, cut: int) -> str:
    return entry.link[cut:] if entry.kind is Kind.HARDLINK else entry.link


def _dress(directory: Path, top: Entry) -> None:
    set_owner_and_mode(str(directory), top)
    os.utime(directory, ns=(top.mtime_ns, top.mtime_ns))
