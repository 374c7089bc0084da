"""RUN: a command in namespaces of its own, upon a root of overlay layers.

Needs root with CAP_SYS_ADMIN and Linux 5.10 or later. `asyncbuild.rootfs.init` is the other half: the
small process that does all of this, and says how. This side only starts it, hands it its orders,
relays the output and makes sure that it is gone.
"""

from __future__ import annotations

import errno
import marshal
import os
import posixpath
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import trio

from asyncbuild.errors import DockerfileError, IsolationError, StoreError
from asyncbuild.layers import marks
from asyncbuild.records import dataclass
from asyncbuild.rootfs import init
from asyncbuild.rootfs.interpreter import python
from asyncbuild.rootfs.orders import Orders
from asyncbuild.rootfs.overlay import MAX_LOWER_DIRECTORIES
from asyncbuild.rootfs.ownroot import OwnRoot
from asyncbuild.rootfs.runspec import (
    LIMITS,
    BindMount,
    DeviceNode,
    Mount,
    RunSpec,
    SecretFile,
    TmpfsMount,
    TreeMount,
    hosts_file,
)
from asyncbuild.rootfs.seccomp import system_call_filter

Stream: TypeAlias = Literal["stdout", "stderr"]
OnOutput: TypeAlias = Callable[[Stream, bytes], None]

_DEADLINE = 10.0
"""Seconds that a killed sandbox may take to vanish; the kernel's part is milliseconds."""

_BOOT = """\
import sys
package = type(sys)("asyncbuild")
package.__path__ = [sys.argv[1]]
sys.modules["asyncbuild"] = package
import importlib
importlib.import_module(sys.argv[2]).main()
"""
"""Loads the init without the package's public face, which imports what a RUN has no use for."""


class OwnersNotMapped(IsolationError):
    """The kernel or a file system cannot show a directory with other owners (`BindMount.read_as_root`).

    Nothing was executed.
    """


class Helper:
    """A started sandbox process, good for one RUN. Whoever starts one closes it."""

    def __init__(self, process: trio.Process, control: trio.SocketStream) -> None:
        self._process = process
        self._control = control

    @property
    def pid(self) -> int:
        """The process that everything of the RUN descends from."""
        return self._process.pid

    async def run(
        self,
        spec: RunSpec,
        on_output: OnOutput,
        place: PlainPlace | OwnPlace | ServedPlace | RuntimePlace | None = None,
    ) -> int:
        """As `run_sandboxed`, but does not close the helper. ``place``: where it is not the usual one."""
        orders = _orders(spec)
        if place is not None:
            orders.__dict__.update(place.order())
        verdict = b""

        async def converse() -> None:
            nonlocal verdict
            try:
                await self._control.send_all(orders.encode())
                async for chunk in self._control:
                    verdict += chunk
            except trio.BrokenResourceError:
                pass  # it is dead; what it said before it died, or its silence, tells the story

        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse)
            nursery.start_soon(_relay, self._process.stdout, "stdout", on_output)
            nursery.start_soon(_relay, self._process.stderr, "stderr", on_output)
        return _judge(verdict)

    async def aclose(self) -> None:
        """Kill whatever still runs in the sandbox; returns when all of it is gone.

        The helper takes the end of its socket as the order to do so. Should it be stuck, killing it
        kills its init.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _DEADLINE):
            await self._control.aclose()
            await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _DEADLINE):
                await self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _DEADLINE):
                    await stream.aclose()


@dataclass(frozen=True, slots=True)
class PlainPlace:
    """Where a RUN without mounts happens: ``tree`` shows the layers, once ``increments`` (directories in
    overlayfs's format, bottom first) are applied to it.

    ``fresh``: the tree is empty, and is made of all the layers. ``keep``: it is used again afterwards.
    """

    tree: Path
    increments: tuple[Path, ...]
    fresh: bool
    keep: bool

    def order(self) -> dict[str, object]:
        """The fields of `Orders`."""
        return {
            "tree": os.fsencode(self.tree),
            "increments": [os.fsencode(path) for path in self.increments],
            "fresh": self.fresh,
            "keep": self.keep,
        }


@dataclass(frozen=True, slots=True)
class ServedPlace:
    """A RUN whose layers a ``program`` shows, fuse-overlayfs."""

    program: bytes

    def order(self) -> dict[str, object]:
        """The fields of `Orders`."""
        return {"fuse": self.program}


@dataclass(frozen=True, slots=True)
class RuntimePlace:
    """A RUN that an OCI runtime executes. ``command`` is how it is called (`oci_runtimes.Runtime.command`);
    ``program`` shows layers, fuse-overlayfs, or is empty where the kernel does.
    """

    command: tuple[bytes, ...]
    program: bytes = b""

    def order(self) -> dict[str, object]:
        """The fields of `Orders`."""
        return {"runtime": list(self.command), "fuse": self.program}


@dataclass(frozen=True, slots=True)
class OwnPlace:
    """A RUN in ``/`` itself. ``increments`` and ``fresh`` as for `PlainPlace`; ``extra_hosts`` are lines
    for /etc/hosts, which is the container's own.
    """

    root: OwnRoot
    increments: tuple[Path, ...]
    fresh: bool
    extra_hosts: bytes = b""

    def order(self) -> dict[str, object]:
        """The fields of `Orders`."""
        return {
            "tree": b"/",
            "increments": [os.fsencode(path) for path in self.increments],
            "fresh": self.fresh,
            "keep": True,
            "hosts": self.extra_hosts,
            "reserved": [os.fsencode(path) for path in self.root.reserved],
            "standing": [os.fsencode(path) for path in self.root.standing],
            "forced": self.root.forced,
            "cleanup": self.root.cleanup,
        }


async def start_inplace_helper() -> Helper:
    """As `start_helper`, for a RUN in ``/`` itself (`asyncbuild.rootfs.inplace`)."""
    return await start_helper("asyncbuild.rootfs.inplace")


async def start_chroot_helper() -> Helper:
    """As `start_helper`, for a RUN that needs no mounts (`asyncbuild.rootfs.chroot`)."""
    return await start_helper("asyncbuild.rootfs.chroot")


async def start_helper(program: str = "asyncbuild.rootfs.init") -> Helper:
    """Start a sandbox process before what it is to run is known: that is half the cost of a RUN."""
    ours, theirs = socket.socketpair()
    with theirs:
        package = str(Path(init.__file__).parent.parent)
        options = ("-I", "-S", "-X", "utf8")
        command = [*python(), *options, "-c", _BOOT, package, program, str(theirs.fileno())]
        try:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C is for the builder alone
                env=_helper_environment(),
                cwd="/",
            )
        except BaseException:
            ours.close()
            raise
    return Helper(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))


def _helper_environment() -> dict[str, str]:
    """No secret of the builder's environment goes near a sandbox; some Pythons need their path."""
    name = "LD_LIBRARY_PATH"
    return {name: os.environ[name]} if name in os.environ else {}


async def run_sandboxed(
    spec: RunSpec,
    on_output: OnOutput,
    *,
    helper: Helper | None = None,
    place: ServedPlace | RuntimePlace | None = None,
) -> int:
    """Run a command and answer its exit code: 128 + n if signal n killed it, 127 if there is no such
    program, 126 if it cannot be executed (the reason is then the last line of ``stderr``).

    ``on_output`` is called with each chunk of output as it comes; all of it has come when this
    returns. Whatever the command leaves running is killed. Cancelled, it kills the command and all
    that it started before it returns. ``helper`` is a started process to use (and close); ``place`` says if
    another than the kernel shows layers, or a runtime runs the command. Raises `IsolationError` if the
    sandbox cannot be made.
    """
    if len(spec.lower_directories) > MAX_LOWER_DIRECTORIES:
        raise IsolationError(
            f"a root of {len(spec.lower_directories)} layers: overlayfs takes {MAX_LOWER_DIRECTORIES}"
        )
    if helper is None:
        helper = await start_helper()
    try:
        return await helper.run(spec, on_output, place)
    finally:
        await helper.aclose()


async def _relay(source: trio.abc.ReceiveStream | None, name: Stream, on_output: OnOutput) -> None:
    assert source is not None
    async for chunk in source:
        on_output(name, bytes(chunk))


def _judge(raw: bytes) -> int:
    """The exit code that the helper's messages tell, or the error."""
    if len(raw) < 4:
        raise IsolationError("the sandbox process was killed", hint="was memory short?")
    message = marshal.loads(raw[4:])  # noqa: S302 - from our own child; the first message counts
    if message[0] == "ended":
        return int(message[1])
    kind, step, number, detail = message
    reason = ": ".join(filter(None, [os.strerror(number) if number else "", detail]))
    if kind == "unmapped":
        raise OwnersNotMapped(f"owners in {step} cannot be mapped: {reason}")
    if kind == "refused":
        hint = _WHY_NO_MOUNT.get(number)
        raise DockerfileError(f"--mount: nothing can be shown at {step}: {reason}", hint=hint)
    if kind == "store" or number in (errno.ENOSPC, errno.EDQUOT):
        raise StoreError.of(f"RUN's sandbox: {step}", OSError(number, os.strerror(number)))
    hint = _HOW if number in _NOT_PERMITTED else None
    if "setting user" in step and number == errno.EINVAL:
        hint = (
            "the user namespace has no such id: RUN as another user than root needs subordinate ids"
        )
    if step.startswith("OCI runtime"):
        hint = "without --oci-runtime RUN is executed by a sandbox of the builder's own"
    if "limits" in step:
        hint = "limits above the builder's own need CAP_SYS_RESOURCE"
    raise IsolationError(f"RUN's sandbox: {step} failed: {reason}", hint=hint)


_HOW = "asyncbuild doctor says what this place permits, and what would help"
_NOT_PERMITTED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
_WHY_NO_MOUNT = {
    errno.EROFS: "its mount point is missing in another mount, which is read-only: give that one rw",
    errno.ENOTDIR: "one of the two is a directory and the other is not, or a parent of it is a file",
    errno.ENOENT: "the source does not exist; links in it do not lead out of it",
}


def _orders(spec: RunSpec) -> Orders:
    orders = Orders()
    orders.argv = [os.fsencode(word) for word in spec.argv]
    orders.environment = {
        os.fsencode(name): os.fsencode(value) for name, value in spec.environment.items()
    }
    orders.working_directory = os.fsencode(posixpath.normpath(spec.working_directory))
    orders.uid, orders.gid, orders.groups = spec.uid, spec.gid, list(spec.groups)
    orders.lower_directories = [os.fsencode(path) for path in spec.lower_directories]
    orders.upper, orders.work = os.fsencode(spec.upper), os.fsencode(spec.work)
    orders.hostname, orders.hosts = os.fsencode(spec.hostname), hosts_file(spec)
    orders.resolv_conf = _resolv_conf() if spec.resolv_conf is None else spec.resolv_conf
    orders.network = spec.network == "host"
    orders.files = [(os.fsencode(file.path), file.mode, file.data) for file in spec.files]
    orders.mounts = [
        {"target": os.fsencode(posixpath.normpath(mount.target)), **_mount_order(mount)}
        for mount in spec.mounts
    ]
    orders.privileged, orders.shm_size = spec.privileged, spec.shm_size
    orders.user_marks = marks.form() == "user"
    orders.filter = b"" if spec.privileged else system_call_filter()
    orders.no_new_privileges = spec.no_new_privileges
    orders.limits = [(LIMITS[item.name], item.soft, item.hard) for item in spec.ulimits]
    return orders


def _mount_order(mount: Mount) -> dict[str, object]:
    """The fields of the `init.MountOrder`, but for its target."""
    match mount:
        case BindMount(source, _, read_only, inside, owner, movable):
            return {
                "kind": "bind",
                "source": os.fsencode(source),
                "read_only": read_only,
                "inside": os.fsencode(inside),
                "owner": owner,
                "movable": movable,
            }
        case TreeMount(lowers, _, inside, writes):
            return {
                "kind": "tree",
                "lowers": [os.fsencode(path) for path in lowers],
                "inside": os.fsencode(inside),
                "writes": b"" if writes is None else os.fsencode(writes),
            }
        case TmpfsMount(_, size, read_only):
            return {"kind": "tmpfs", "size": size, "read_only": read_only}
        case SecretFile(_, data, mode, uid, gid):
            return {"kind": "secret", "data": data, "mode": mode, "uid": uid, "gid": gid}
        case DeviceNode(_, kind, major, minor, mode, uid, gid):
            type_ = stat.S_IFCHR if kind == "c" else stat.S_IFBLK
            number = os.makedev(major, minor)
            mode |= type_
            return {"kind": "device", "number": number, "mode": mode, "uid": uid, "gid": gid}


def _resolv_conf() -> bytes:
    """This machine's, as it is: a RUN shares its network (a loopback resolver answers here too)."""
    try:
        return Path("/etc/resolv.conf").read_bytes()
    except OSError:
        return b""
