"""RUN --mount: from what a Dockerfile asks for to what the sandbox shows.

`ready_mounts` gathers everything before the command starts and takes it back when it has ended: stages
and images as layers without a copy, the context as it stands on disk where that is what the context is,
caches under their locks, agents behind sockets of their own.

Rules, all of them BuildKit's (``dockerfile2llb/convert_runmount.go``, ``solver/llbsolver/mounts``):

1. A relative target is seen from WORKDIR, a missing one is WORKDIR; ``/`` and /proc cannot be covered.
2. A source is found inside what it is a source of: links do not lead out of it.
3. Caches are taken last and all in one order, whatever order builds name them in: none waits for a cache
   in a ring. A cache that is named twice in one RUN is one cache.
4. A secret or agent that is not given is left out, unless it is required. SSH_AUTH_SOCK is set for the
   first ssh mount all the same.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import assert_never

import trio

from asyncbuild.build.cache_mounts import CacheWish, taken_caches
from asyncbuild.build.mount_keys import SECRETS_DIRECTORY, secret_id
from asyncbuild.build.mount_sources import MountSource, find_mount_source
from asyncbuild.build.step import At
from asyncbuild.context.as_it_is import as_it_is
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.mounts import Mount, MountType
from asyncbuild.errors import DockerfileError, InputError, IsolationError
from asyncbuild.layers.changeset import Kind
from asyncbuild.records import dataclass, field
from asyncbuild.report.events import WarningRaised
from asyncbuild.rootfs import runspec
from asyncbuild.rootfs.user_namespace import maps_owner

_NO_PLACE = ("/", "/proc", "/dev", "/sys")


@dataclass(slots=True)
class ReadyMounts:
    """What the sandbox shows, the variables that come with it, and what must not be printed."""

    mounts: list[runspec.Mount] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    hidden: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def ready_mounts(
    at: At, instruction: ins.Run, *, copy_foreign: bool
) -> AsyncIterator[ReadyMounts]:
    """Everything that the RUN's mounts need, as long as the block lasts.

    ``copy_foreign``: a context that belongs to another user than root is copied and not mapped.
    """
    asked = [flag.mount() for flag in instruction.mounts]
    async with AsyncExitStack() as stack:
        gathering = _Gathering(at, stack, copy_foreign=copy_foreign)
        for place, mount in enumerate(asked):
            await gathering.add(place, mount)
        await gathering.add_devices(instruction)
        await gathering.take_caches()
        yield gathering.ready


class _Gathering:
    """The mounts of one RUN as they come together."""

    def __init__(self, at: At, stack: AsyncExitStack, *, copy_foreign: bool) -> None:
        self._at = at
        self._stack = stack
        self._copy_foreign = copy_foreign
        self._options = at.session.request.run
        self._caches: list[CacheWish] = []
        self._agents = 0
        self.ready = ReadyMounts()

    async def add(self, place: int, mount: Mount) -> None:
        """One mount; ``place`` is its place among those of the RUN."""
        match mount.type:
            case MountType.BIND:
                source = await find_mount_source(self._at, place, mount)
                self._show(await self._bind(source, self._target(mount.target), mount))
            case MountType.CACHE:
                seed = await find_mount_source(self._at, place, mount) if mount.from_ else None
                _owner(mount)
                self._caches.append(CacheWish(mount, self._target(mount.target), seed))
            case MountType.TMPFS:
                target = self._target(mount.target)
                self._show(runspec.TmpfsMount(target, mount.size, mount.read_only))
            case MountType.SECRET:
                self._add_secret(mount)
            case MountType.SSH:
                await self._add_agent(mount)
            case _:
                assert_never(mount.type)

    async def add_devices(self, instruction: ins.Run) -> None:
        """The devices of the build and of the instruction, and what comes with them."""
        wanted = (*self._options.devices, *instruction.devices)
        if not wanted:
            return
        from asyncbuild.build.devices import device_edits, read_devices  # noqa: PLC0415 - rare

        known = await trio.to_thread.run_sync(read_devices, self._options.device_directories)
        find = partial(device_edits, wanted, known, self._options.allow)
        edits, missing = await trio.to_thread.run_sync(find)
        for name in missing:
            text = f"the device {name} is not known here: RUN goes without it"
            self._at.session.tell(WarningRaised(text, instruction.location))
        self.ready.environment |= edits.environment
        self.ready.mounts += edits.mounts

    async def take_caches(self) -> None:
        """Take every cache (rule 3)."""
        taken = taken_caches(self._at, tuple(self._caches))
        self.ready.mounts += await self._stack.enter_async_context(taken)

    def _show(self, mount: runspec.Mount) -> None:
        self.ready.mounts.append(mount)

    def _target(self, target: str) -> str:
        """The absolute path of a target (rule 1)."""
        path = posixpath.normpath(posixpath.join("/", self._at.state.image.working_dir, target))
        path = "/" + path.lstrip("/")
        if path in _NO_PLACE or path.startswith("/proc/"):
            hint = None if target else "say where with target=…"
            raise DockerfileError(f"--mount: nothing can be mounted at {path}", hint=hint)
        return path

    async def _bind(self, source: MountSource, target: str, mount: Mount) -> runspec.Mount:
        if source.layers is not None:
            writes = None if mount.read_only else await self._work("mount")
            return runspec.TreeMount(source.layers, target, source.path, writes)
        assert source.context is not None
        real = await trio.to_thread.run_sync(as_it_is, source.context, source.path)
        if real is not None and mount.read_only:
            owner = None if real.owner == (0, 0) else real.owner
            if owner is None or not self._copy_foreign:
                return runspec.BindMount(real.path, target, read_only=True, read_as_root=owner)
        if real is not None and real.owner == (0, 0) and source.kind is Kind.DIRECTORY:
            return runspec.TreeMount((real.path,), target, writes=await self._work("mount"))
        return await self._copied(source, target, mount)

    async def _copied(self, source: MountSource, target: str, mount: Mount) -> runspec.Mount:
        """A copy of what the context has there: what is left out of it, or not root's, stays out."""
        work = await self._work("mount", "fs")
        await source.copy_to(self._at.session.job.workers, work / "fs")
        inside = "" if source.kind is Kind.DIRECTORY else source.name
        return runspec.BindMount(work / "fs", target, mount.read_only, inside, movable=True)

    def _add_secret(self, mount: Mount) -> None:
        name = secret_id(mount)
        secret = self._options.secrets.get(name)
        if secret is None:
            if mount.required:
                raise InputError(
                    f"the secret {name} is not given", hint=f"give it: --secret id={name},src=FILE"
                )
            if mount.env is not None:
                # BuildKit sets the variable all the same (solver/llbsolver/ops/exec.go, loadSecretEnv).
                self.ready.environment[mount.env or posixpath.basename(name)] = ""
            return
        self.ready.hidden.append(secret.data)
        if mount.env is not None:
            if b"\0" in secret.data:
                raise InputError(f"the secret {name} has a zero byte: no variable can hold it")
            variable = mount.env or posixpath.basename(name)
            self.ready.environment[variable] = os.fsdecode(secret.data)
        if mount.target or mount.env is None:
            target = mount.target or f"{SECRETS_DIRECTORY}/{posixpath.basename(name)}"
            mode = 0o400 if mount.mode is None else mount.mode & 0o777
            owner = _owner(mount)
            self._show(runspec.SecretFile(self._target(target), secret.data, mode, *owner))

    async def _add_agent(self, mount: Mount) -> None:
        target = mount.target or f"/run/buildkit/ssh_agent.{self._agents}"
        self._agents += 1
        if self._agents == 1 and "SSH_AUTH_SOCK" not in self._at.state.scope.environment:
            self.ready.environment["SSH_AUTH_SOCK"] = target
        name = mount.id or "default"
        source = self._options.ssh.get(name)
        if source is None:
            if mount.required:
                raise InputError(
                    f"no ssh agent is given for {name}", hint=f"give one: --ssh {name}"
                )
            return
        mode = 0o600 if mount.mode is None else mount.mode
        from asyncbuild.build.ssh_agents import SocketOwner, forwarded_agent  # noqa: PLC0415 - rare

        owner = SocketOwner(mode, *_owner(mount))
        agent = forwarded_agent(source, owner, await self._work("ssh"))
        socket = await self._stack.enter_async_context(agent)
        self._show(runspec.BindMount(socket, self._target(target)))

    async def _work(self, purpose: str, *inside: str) -> Path:
        """A directory that is given up at the end of the RUN."""
        store = self._at.session.job.store
        path = await trio.to_thread.run_sync(store.new_work, purpose, *inside)
        self._stack.callback(store.discard, path)
        return path


def _owner(mount: Mount) -> tuple[int, int]:
    """Whom the mount is for. Raises `IsolationError` for an owner that a user namespace has not got."""
    owner = (mount.uid or 0, mount.gid or 0)
    if not maps_owner(*owner):
        message = f"--mount=type={mount.type}: nothing can be given to {owner[0]}:{owner[1]} here"
        raise IsolationError(
            message, hint="this user has not got that many subordinate ids, or none"
        )
    return owner
