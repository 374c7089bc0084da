"""COPY, ADD and WORKDIR: change sets, made without mounting or writing anything."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from asyncbuild.build.archives import Gathered, unpack_archives
from asyncbuild.build.foresight import Foreseen
from asyncbuild.build.guess import foretell
from asyncbuild.build.remotes import remote_of
from asyncbuild.build.stage import Change
from asyncbuild.build.stage_files import find_path
from asyncbuild.build.step import At, owner_of, with_changes
from asyncbuild.context.placement import Placement, make_directory, place
from asyncbuild.context.sources import CopySource, InlineFile, SourceTree
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.modes import ModeChange
from asyncbuild.dockerfile.paths import absolute_destination, absolute_workdir
from asyncbuild.errors import DockerfileError
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.plan.nouns import ContextRef, ImageRef, Scratch, StageRef
from asyncbuild.rootfs.users import owner_needs_names
from asyncbuild.rootfs.view import View


async def copy(at: At, instruction: ins.Copy | ins.Add) -> Change:
    """COPY and ADD: what the sources add to the root, found without mounting or writing anything.

    With ``--link`` the root is not looked at: the layer is what the same step makes of scratch.
    """
    foreseen = await at.foresight.of(at.named)
    uploads = at.session.open_uploads() if at.published and foreseen is None else ()
    changes = foreseen.placed if foreseen else await _changes(at, instruction)
    if instruction.is_linked:
        return with_changes(at, await trio.to_thread.run_sync(changes, View()), uploads)
    return with_changes(at, await at.guesses.look(at.state.root, changes), uploads)


async def foresee(at: At, instruction: ins.Copy | ins.Add) -> Foreseen:
    """What the step makes of a root that has nothing there, or there what the base is likely to have;
    packed and on its way.
    """
    session = at.session
    uploads = session.open_uploads() if at.published else ()
    placed = await _changes(at, instruction)
    if instruction.is_linked:
        changes = await trio.to_thread.run_sync(placed, View())
    else:
        changes = await foretell(at.state.root, placed)
    layer = session.packer.changes(at.named, changes, at.emptied)
    if at.published:
        session.publish(layer, uploads)
    return Foreseen(placed, changes, layer)


async def _changes(at: At, instruction: ins.Copy | ins.Add) -> Callable[[View], ChangeSet]:
    """What the sources add to any root. The function blocks."""
    sources = await unpack_archives(at.session.job, await gather(at, instruction))

    def changes(view: View) -> ChangeSet:
        below = None if instruction.is_linked else view
        return place(sources, _placement(at, instruction, view), below)

    return changes


async def gather(at: At, instruction: ins.Copy | ins.Add) -> tuple[Gathered, ...]:
    """What the instruction names, wherever it is. The instruction's words are resolved."""
    if isinstance(at.step.source, StageRef):
        assert isinstance(instruction, ins.Copy)
        found = await at.session.stage_files(at.step.source.index, instruction).wait()
    else:
        found = await _gather_outside(at, instruction)
    documents = [
        InlineFile(heredoc.name, os.fsencode(heredoc.content)) for heredoc in instruction.heredocs
    ]
    return (*found, *documents)


async def _gather_outside(at: At, instruction: ins.Copy | ins.Add) -> list[CopySource]:
    """What comes from no stage of this build."""
    found: list[CopySource] = []
    for source in instruction.sources:
        remote = remote_of(instruction, source) if isinstance(instruction, ins.Add) else None
        if remote is not None and isinstance(instruction, ins.Add):
            found.append(await at.session.remotes.source(instruction, remote))
        else:
            tree = await _source_tree(at, instruction)
            found += await trio.to_thread.run_sync(find_path, instruction, source, tree)
    return found


async def _source_tree(at: At, instruction: ins.Copy | ins.Add) -> SourceTree:
    """Where the sources are: the context or an image."""
    session = at.session
    match at.step.source:
        case ImageRef(reference, platform):
            image = await session.supply.image(reference, platform).wait()
            return await session.supply.files(image, _asked(instruction)).wait()
        case ContextRef() as ref:
            return await session.remotes.context(ref).wait()
        case Scratch():
            return View()
        case _:
            return await session.context.wait()


def _asked(instruction: ins.Copy | ins.Add) -> tuple[str, ...]:
    """What is wanted of an image: with ``--parents`` the directories above count too."""
    parents = isinstance(instruction, ins.Copy) and instruction.parents
    return ("*",) if parents else instruction.sources


def _placement(at: At, instruction: ins.Copy | ins.Add, view: View) -> Placement:
    """Where it all goes. Blocks: names of users are looked up in the root."""
    if instruction.is_linked and owner_needs_names(instruction.chown):
        raise DockerfileError(
            f"--link cannot look up the names of --chown={instruction.chown}: it does not read the image",
            hint="write numbers, or leave --link out",
        )
    return Placement(
        destination=absolute_destination(at.state.image.working_dir, instruction.destination),
        owner=owner_of(view, instruction.chown),
        mode=ModeChange.parse(instruction.chmod) if instruction.chmod else None,
        made_ns=at.made_ns,
    )


async def make_working_directory(at: At, instruction: ins.Workdir) -> Change:
    """WORKDIR: the directory, if it is missing, owned by the current user."""
    path = absolute_workdir(at.state.image.working_dir, instruction.path)
    uploads = at.session.open_uploads() if at.published else ()
    user = at.state.image.runtime.user

    def changes(view: View) -> ChangeSet:
        owner = owner_of(view, user) if user else None
        return make_directory(Placement(path, owner, made_ns=at.made_ns), view)

    return with_changes(at, await at.guesses.look(at.state.root, changes), uploads)
