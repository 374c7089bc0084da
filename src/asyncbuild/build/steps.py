"""How each kind of step works on files: RUN, COPY and ADD, WORKDIR."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from asyncbuild.build.futures import kept
from asyncbuild.build.root import Addition
from asyncbuild.build.session import Session, UploadSessions
from asyncbuild.build.stage import Change, StageState
from asyncbuild.context.archives import refuse_archives
from asyncbuild.context.directory import DirectoryContext
from asyncbuild.context.placement import Placement, make_directory, place
from asyncbuild.context.sources import CopySource, InlineFile, SourceTree, find_sources
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.modes import ModeChange
from asyncbuild.dockerfile.paths import absolute_destination, absolute_workdir
from asyncbuild.dockerfile.shellform import run_command_line
from asyncbuild.errors import RunFailed
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.paths import clean
from asyncbuild.plan.nouns import ImageRef, PlanStage, Scratch, StageRef, Step
from asyncbuild.report import events
from asyncbuild.rootfs.sandbox import RunFile, RunSpec, run_sandboxed
from asyncbuild.rootfs.users import (
    Identity,
    command_environment,
    owner_needs_names,
    resolve_owner,
    resolve_user,
)
from asyncbuild.rootfs.view import ChangeSetTree, DirectoryTree, View


@dataclass(frozen=True, slots=True, eq=False)
class At:
    """Where a step is executed: its session and stage, what is planned, and the state before it."""

    session: Session
    stage: PlanStage
    step: Step
    named: events.Step
    state: StageState
    more_runs: bool = False

    @property
    def made_ns(self) -> int:
        """The time (ns since the epoch) of files and directories that have none of their own."""
        return self.session.job.created * 10**9

    @property
    def published(self) -> bool:
        """Whether the step's layer is a layer of the image."""
        return self.session.publishes(self.stage.index)


async def run(at: At, instruction: ins.Run) -> Change:
    """RUN: a command in the sandbox, upon everything so far; its changes are the upper directory."""
    state, session = at.state, at.session
    uploads = session.open_uploads() if at.published else ()
    view = await state.root.view()
    lowers = await state.root.lower_directories()
    work = await trio.to_thread.run_sync(session.job.store.new_work, "run", "upper", "work")
    identity = await trio.to_thread.run_sync(_identity, view, state.image.runtime.user)
    await trio.to_thread.run_sync(_dress_as_root, work / "upper", view)
    spec = _run_spec(at, instruction, identity, work, lowers)
    helper = await session.sandboxes.take()
    if at.more_runs:
        session.sandboxes.prepare()
    code = await run_sandboxed(spec, partial(_tell_output, at), helper=helper)
    if code != 0:
        raise RunFailed(
            f"RUN failed with exit code {code}: {instruction.original.removeprefix('RUN ')}",
            code=code,
        )
    upper = work / "upper"
    root = state.root.with_addition(_directory_addition(upper))
    if not at.published:
        return Change(root, None)
    layer = session.packer.upper(at.named, upper, lowers)
    session.publish(layer, uploads)
    return Change(root, layer)


def _run_spec(
    at: At, instruction: ins.Run, identity: Identity, work: Path, lowers: tuple[Path, ...]
) -> RunSpec:
    image, request = at.state.image, at.session.request
    line = run_command_line(instruction, image.runtime.shell)
    network = request.network if instruction.network == "default" else instruction.network
    files: tuple[RunFile, ...] = ()
    if line.script is not None:
        name = line.script.path.rpartition("/")[2]
        files = (RunFile(name, 0o755, line.script.content.encode()),)
    return RunSpec(
        argv=line.argv,
        upper=work / "upper",
        work=work / "work",
        lower_directories=lowers,
        environment=command_environment(at.state.scope.run_environment, identity),
        working_directory=image.working_dir,
        uid=identity.uid,
        gid=identity.gid,
        groups=identity.groups,
        extra_hosts=request.add_hosts,
        network="none" if network == "none" else "host",
        files=files,
    )


def _identity(view: View, user: str) -> Identity:
    return resolve_user(user, _text(view, "etc/passwd"), _text(view, "etc/group"))


def _dress_as_root(upper: Path, view: View) -> None:
    """Give an empty upper directory the root's attributes: overlayfs shows the upper's as the root's."""
    entry = view.lookup("")
    if entry is not None:
        os.chown(upper, entry.uid, entry.gid)
        os.chmod(upper, entry.mode)
        os.utime(upper, ns=(entry.mtime_ns, entry.mtime_ns))


def _text(view: View, path: str) -> str:
    """A root's file as text; what is not there is empty, and bytes that are no UTF-8 do not matter."""
    return (view.read(path) or b"").decode("utf-8", "surrogateescape")


def _tell_output(at: At, stream: str, data: bytes) -> None:
    at.session.job.reporter.emit(events.RunOutput(at.named, events.Stream(stream), data))


async def copy(at: At, instruction: ins.Copy | ins.Add) -> Change:
    """COPY and ADD: what the sources add to the root, found without mounting or writing anything."""
    session = at.session
    uploads = session.open_uploads() if at.published else ()
    view = await at.state.root.view()
    tree = await _source_tree(at, instruction)
    work = partial(_placed, at, instruction, tree, view)
    changes = await trio.to_thread.run_sync(work)
    return _with_changes(at, changes, uploads)


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
        owner=_owner(view, instruction.chown),
        mode=ModeChange.parse(instruction.chmod) if instruction.chmod else None,
        made_ns=at.made_ns,
    )
    return place(sources, placement, view)


def _owner(view: View, chown: str) -> tuple[int, int] | None:
    if not chown:
        return None
    if not owner_needs_names(chown):
        return resolve_owner(chown, "", "")
    return resolve_owner(chown, _text(view, "etc/passwd"), _text(view, "etc/group"))


async def make_working_directory(at: At, instruction: ins.Workdir) -> Change | None:
    """WORKDIR: the directory, if it is missing, owned by the current user. ``/`` needs no layer."""
    path = absolute_workdir(at.state.image.working_dir, instruction.path)
    if clean(path) == "":
        return None
    uploads = at.session.open_uploads() if at.published else ()
    view = await at.state.root.view()
    user = at.state.image.runtime.user

    def changes() -> ChangeSet:
        owner = _owner(view, user) if user else None
        return make_directory(Placement(path, owner, made_ns=at.made_ns), view)

    return _with_changes(at, await trio.to_thread.run_sync(changes), uploads)


def _directory_addition(path: Path) -> Addition:
    return Addition(DirectoryTree(path), lambda: kept("upper directory", path))


def _with_changes(at: At, changes: ChangeSet, uploads: UploadSessions) -> Change:
    """The root with a change set on top, and its layer if the image has it."""
    session = at.session
    root = at.state.root
    if changes:
        addition = Addition(ChangeSetTree(changes), session.materialise(changes))
        root = root.with_addition(addition)
    if not at.published:
        return Change(root, None)
    layer = session.packer.changes(at.named, changes)
    session.publish(layer, uploads)
    return Change(root, layer)
