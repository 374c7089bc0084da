"""COPY, ADD and WORKDIR: change sets, made without mounting or writing anything."""

from __future__ import annotations

import os
from functools import partial

import trio

from asyncbuild.build.stage import Change
from asyncbuild.build.step import At, owner_of, with_changes
from asyncbuild.context.archives import refuse_archives
from asyncbuild.context.directory import DirectoryContext
from asyncbuild.context.placement import Placement, make_directory, place
from asyncbuild.context.sources import CopySource, InlineFile, SourceTree, find_sources
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.modes import ModeChange
from asyncbuild.dockerfile.paths import absolute_destination, absolute_workdir
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.paths import clean
from asyncbuild.plan.nouns import ImageRef, Scratch, StageRef
from asyncbuild.rootfs.view import View


async def copy(at: At, instruction: ins.Copy | ins.Add) -> Change:
    """COPY and ADD: what the sources add to the root, found without mounting or writing anything."""
    session = at.session
    uploads = session.open_uploads() if at.published else ()
    view = await at.state.root.view()
    tree = await _source_tree(at, instruction)
    work = partial(_placed, at, instruction, tree, view)
    changes = await trio.to_thread.run_sync(work)
    return with_changes(at, changes, uploads)


async def _source_tree(at: At, instruction: ins.Copy | ins.Add) -> SourceTree:
    """Where the sources are: the context, another stage's root, or an image."""
    session = at.session
    match at.step.source:
        case StageRef(index):
            return await (await session.stage(index).wait()).root.view()
        case ImageRef(reference, platform):
            image = await session.supply.image(reference, platform).wait()
            return await session.supply.files(image, instruction.sources).wait()
        case Scratch():
            return View()
        case None:
            return await session.context.wait()


def _placed(at: At, instruction: ins.Copy | ins.Add, tree: SourceTree, view: View) -> ChangeSet:
    """The change set of one COPY. Blocks: it reads directories."""
    sources: list[CopySource | InlineFile] = []
    for pattern in instruction.sources:
        found = (
            tree.find(pattern)
            if isinstance(tree, DirectoryContext)
            else find_sources(tree, pattern)
        )
        if isinstance(instruction, ins.Add):
            refuse_archives(found)
        sources += found
    for heredoc in instruction.heredocs:
        sources.append(InlineFile(heredoc.name, os.fsencode(heredoc.content)))
    placement = Placement(
        destination=absolute_destination(at.state.image.working_dir, instruction.destination),
        owner=owner_of(view, instruction.chown),
        mode=ModeChange.parse(instruction.chmod) if instruction.chmod else None,
        made_ns=at.made_ns,
    )
    return place(sources, placement, view)


async def make_working_directory(at: At, instruction: ins.Workdir) -> Change | None:
    """WORKDIR: the directory, if it is missing, owned by the current user. ``/`` needs no layer."""
    path = absolute_workdir(at.state.image.working_dir, instruction.path)
    if clean(path) == "":
        return None
    uploads = at.session.open_uploads() if at.published else ()
    view = await at.state.root.view()
    user = at.state.image.runtime.user

    def changes() -> ChangeSet:
        owner = owner_of(view, user) if user else None
        return make_directory(Placement(path, owner, made_ns=at.made_ns), view)

    return with_changes(at, await trio.to_thread.run_sync(changes), uploads)
