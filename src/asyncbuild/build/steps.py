"""How each kind of step works on files: RUN, COPY and ADD, WORKDIR."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from asyncbuild.build.futures import kept
from asyncbuild.build.root import Addition
from asyncbuild.build.session import Session
from asyncbuild.build.stage import Change, StageState
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.shellform import run_command_line
from asyncbuild.errors import RunFailed
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.plan.nouns import PlanStage, Step
from asyncbuild.report import events
from asyncbuild.rootfs.sandbox import RunFile, RunSpec, run_sandboxed
from asyncbuild.rootfs.users import Identity, command_environment, resolve_user
from asyncbuild.rootfs.view import ChangeSetTree, DirectoryTree, View


@dataclass(frozen=True, slots=True, eq=False)
class At:
    """Where a step is executed: its session and stage, what is planned, and the state before it."""

    session: Session
    stage: PlanStage
    step: Step
    named: events.Step
    state: StageState

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
    spec = _run_spec(at, instruction, identity, work, lowers)
    code = await run_sandboxed(spec, partial(_tell_output, at))
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


def _text(view: View, path: str) -> str:
    """A root's file as text; what is not there is empty, and bytes that are no UTF-8 do not matter."""
    return (view.read(path) or b"").decode("utf-8", "surrogateescape")


def _tell_output(at: At, stream: str, data: bytes) -> None:
    at.session.job.reporter.emit(events.RunOutput(at.named, events.Stream(stream), data))


def _directory_addition(path: Path) -> Addition:
    return Addition(DirectoryTree(path), lambda: kept("upper directory", path))


def _with_changes(at: At, changes: ChangeSet) -> Change:
    """The root with a change set on top, and its layer if the image has it."""
    session = at.session
    addition = Addition(ChangeSetTree(changes), session.materialise(changes))
    root = at.state.root.with_addition(addition) if changes else at.state.root
    if not at.published:
        return Change(root, None)
    uploads = session.open_uploads()
    layer = session.packer.changes(at.named, changes)
    session.publish(layer, uploads)
    return Change(root, layer)
