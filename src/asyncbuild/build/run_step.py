"""RUN: a command in the sandbox, upon everything that the stage has so far."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import trio

from asyncbuild.build.futures import kept
from asyncbuild.build.root import Addition
from asyncbuild.build.stage import Change
from asyncbuild.build.step import At, text_of
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.shellform import run_command_line
from asyncbuild.errors import RunFailed
from asyncbuild.report import events
from asyncbuild.rootfs.runspec import RunFile, RunSpec
from asyncbuild.rootfs.sandbox import run_sandboxed
from asyncbuild.rootfs.users import Identity, command_environment, resolve_user
from asyncbuild.rootfs.view import DirectoryTree, View

_HINTS = {
    126: "the program cannot be executed: is it executable, and for this platform?",
    127: "is the program in this image, and its directory in PATH?",
    137: "SIGKILL ended it: was there enough memory?",
    139: "SIGSEGV ended it",
}
"""What a command's exit code may mean, where it is more than the command's own affair."""


async def run(at: At, instruction: ins.Run) -> Change:
    """RUN: a command in the sandbox, upon everything so far; its changes are the upper directory."""
    state, session = at.state, at.session
    uploads = session.open_uploads() if at.published else ()
    view = await state.root.view()
    lowers = await state.root.lower_directories()
    work = await trio.to_thread.run_sync(session.job.store.new_work, "run", "fs", "work")
    identity = await trio.to_thread.run_sync(_identity, view, state.image.runtime.user)
    await trio.to_thread.run_sync(_dress_as_root, work / "fs", view)
    spec = _run_spec(at, instruction, identity, work, lowers)
    helper = await session.sandboxes.take()
    if at.more_runs:
        session.sandboxes.prepare()
    code = await run_sandboxed(spec, partial(_tell_output, at), helper=helper)
    if code != 0:
        raise RunFailed(f"RUN failed with exit code {code}", code=code, hint=_HINTS.get(code))
    upper = work / "fs"
    root = state.root.with_addition(_directory_addition(upper))
    layer = session.packer.upper(at.named, upper, lowers) if at.packed else None
    if layer is not None and at.published:
        session.publish(layer, uploads)
    return Change(root, layer, lambda: work)


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
    )


def _identity(view: View, user: str) -> Identity:
    return resolve_user(user, text_of(view, "etc/passwd"), text_of(view, "etc/group"))


def _dress_as_root(upper: Path, view: View) -> None:
    """Give an empty upper directory the root's attributes: overlayfs shows the upper's as the root's."""
    entry = view.lookup("")
    if entry is not None:
        os.chown(upper, entry.uid, entry.gid)
        os.chmod(upper, entry.mode)
        os.utime(upper, ns=(entry.mtime_ns, entry.mtime_ns))


def _tell_output(at: At, stream: str, data: bytes) -> None:
    at.session.job.reporter.emit(events.RunOutput(at.named, events.Stream(stream), data))


def _directory_addition(path: Path) -> Addition:
    return Addition(DirectoryTree(path), lambda: kept("upper directory", path))
