"""RUN: a command in the sandbox, upon everything that the stage has so far."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import trio

from asyncbuild.build.backend import Ended, RunOrder
from asyncbuild.build.entitlements import check_entitlements
from asyncbuild.build.futures import kept
from asyncbuild.build.redaction import Redactor
from asyncbuild.build.root import Addition
from asyncbuild.build.run_mounts import ready_mounts
from asyncbuild.build.stage import Change
from asyncbuild.build.step import At, text_of
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.shellform import run_command_line
from asyncbuild.errors import RunFailed
from asyncbuild.layers.records import set_owner_and_mode
from asyncbuild.records import replace
from asyncbuild.report import events
from asyncbuild.rootfs.cgroups import Limits
from asyncbuild.rootfs.isolation import Isolation
from asyncbuild.rootfs.runspec import DEFAULT_SHM_SIZE, RunFile, RunSpec
from asyncbuild.rootfs.sandbox import OwnersNotMapped
from asyncbuild.rootfs.users import Identity, command_environment, resolve_user
from asyncbuild.rootfs.view import DirectoryTree, View

_HINTS = {
    126: "the program cannot be executed: is it executable, and for this platform?",
    127: "is the program in this image, and its directory in PATH?",
    137: "SIGKILL ended it: was there enough memory?",
    139: "SIGSEGV ended it",
}
"""What a command's exit code may mean, where it is more than the command's own affair."""

_LACKS = {Isolation.CHROOT: "with --isolation chroot there is no /proc and no /sys"}
"""What a command may have missed, by the way in which it was executed."""

_OUT_OF_MEMORY = "it wanted more memory than --memory gives it"


async def run(at: At, instruction: ins.Run) -> Change:
    """RUN: a command in the sandbox, upon everything so far; its changes are the upper directory."""
    state, session = at.state, at.session
    check_entitlements(instruction, session.request.run.allow)
    uploads = session.open_uploads() if at.published else ()
    view = await state.root.view()
    lowers = await state.root.lower_directories()
    identity = await trio.to_thread.run_sync(_identity, view, state.image.runtime.user)
    try:
        work = await _run_in_work(at, instruction, (identity, lowers, view), copy_foreign=False)
    except OwnersNotMapped:
        work = await _run_in_work(at, instruction, (identity, lowers, view), copy_foreign=True)
    upper = work / "fs"
    root = state.root.with_addition(_directory_addition(upper))
    layer = None
    if at.packed:
        layer = session.packer.upper(at.named, upper, lowers, at.emptied)
    if layer is not None and at.published:
        session.publish(layer, uploads)
    return Change(root, layer, lambda: work)


async def _run_in_work(
    at: At,
    instruction: ins.Run,
    upon: tuple[Identity, tuple[Path, ...], View],
    *,
    copy_foreign: bool,
) -> Path:
    """Run the command; the work directory whose ``fs`` has what it changed."""
    session, (identity, lowers, view) = at.session, upon
    backend = await session.backends.chosen()
    work = await trio.to_thread.run_sync(session.job.store.new_work, "run", "fs", "work")
    await trio.to_thread.run_sync(_dress_as_root, work / "fs", view)
    async with ready_mounts(at, instruction, copy_foreign=copy_foreign) as ready:
        spec = _run_spec(at, instruction, identity, work, lowers)
        environment = {**spec.environment, **ready.environment}
        mounts = (*spec.mounts, *ready.mounts)
        spec = replace(spec, environment=environment, mounts=mounts)
        output = _Output(at, ready.hidden)
        options = session.request.run
        order = RunOrder(spec, Limits(options.memory, options.cpus), at.more_runs)
        try:
            ended = await backend.run(order, output.take)
        finally:
            output.finish()
    if ended.code != 0:
        raise _failure(at, ended, _LACKS.get(backend.isolation))
    return work


def _failure(at: At, ended: Ended, lacks: str | None) -> RunFailed:
    """What a person is told: the code, the stage, what it may mean, how to try again. The last lines of
    the output are the reporters' to show.
    """
    name = at.stage.name or str(at.stage.index)
    hints = [_OUT_OF_MEMORY if ended.out_of_memory else _HINTS.get(ended.code)]
    hints.append(lacks)
    if at.session.request.use_cache:
        hints.append(f"--target {name} tries it again alone; the steps before it are cached")
    return RunFailed(
        f"RUN failed with exit code {ended.code} in stage {at.stage.label}",
        code=ended.code,
        hint="; ".join(filter(None, hints)) or None,
    )


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
        upper=work / "fs",
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
        privileged=instruction.security == "insecure",
        shm_size=request.run.shm_size or DEFAULT_SHM_SIZE,
        ulimits=request.run.ulimits,
        no_new_privileges=request.run.no_new_privileges,
    )


def _identity(view: View, user: str) -> Identity:
    return resolve_user(user, text_of(view, "etc/passwd"), text_of(view, "etc/group"))


def _dress_as_root(upper: Path, view: View) -> None:
    """Give an empty upper directory the root's attributes: overlayfs shows the upper's as the root's."""
    entry = view.lookup("")
    if entry is not None:
        set_owner_and_mode(str(upper), entry)
        os.utime(upper, ns=(entry.mtime_ns, entry.mtime_ns))


class _Output:
    """What the command prints, on its way to the reporters, without secrets."""

    def __init__(self, at: At, hidden: Iterable[bytes]) -> None:
        self._at = at
        secrets = tuple(hidden)
        self._redactors = {stream: Redactor(secrets) for stream in events.Stream}

    def take(self, stream: str, data: bytes) -> None:
        """One piece, cut anywhere."""
        which = events.Stream(stream)
        self._tell(which, self._redactors[which].feed(data))

    def finish(self) -> None:
        """No more comes."""
        for which, redactor in self._redactors.items():
            self._tell(which, redactor.finish())

    def _tell(self, stream: events.Stream, data: bytes) -> None:
        if data:
            self._at.session.tell(events.RunOutput(self._at.named, stream, data))


def _directory_addition(path: Path) -> Addition:
    return Addition(DirectoryTree(path), lambda: kept("upper directory", path))
