"""RUN where nothing can be mounted: the program that runs a command in a plain directory, by chroot(2).

It is started and spoken to as `asyncbuild.rootfs.init` is, and takes its place: makes the root, puts things
in place, runs the command, takes everything away again and writes what changed into the upper directory.

Instead of namespaces: this process adopts every descendant of the command whose parent ends, and kills them
all when the command ends, or the builder does. The command alone would die with this process.
Without CAP_SYS_ADMIN system calls can be filtered only by giving up new privileges (set-user-id programs),
so they are where that is asked for, or so already; a pod's own filter holds in any case.

A command that is root here and means ill can leave a chroot: the pod is the wall, and this is no wall.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from asyncbuild.errors import AsyncbuildError, StoreError
from asyncbuild.rootfs import syscalls
from asyncbuild.rootfs.init import Step, StepFailed, Verdict, about, become_command, tell
from asyncbuild.rootfs.mounts import MountFailed, MountOrder
from asyncbuild.rootfs.orders import Orders
from asyncbuild.rootfs.places import Places, furnish, show_mounts, write_file
from asyncbuild.rootfs.plainroot import apply_layer, make_root
from asyncbuild.rootfs.statwalk import Upper, walk

_CAP_SYS_ADMIN = 21
_PAUSE_MS = 500
"""How often the dead that nobody waits for are collected."""
_CHUNK = 1 << 16


class _BuilderEnded(Exception):
    """Nobody waits for the result any more."""


class Builder:
    """The other end of the socket."""

    def __init__(self, control: int) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def check(self) -> None:
        """Raise `_BuilderEnded` if it is gone: it sends nothing more, so what can be read is its end."""
        if self._poll.poll(0):
            raise _BuilderEnded


def main() -> None:
    """The helper; never returns."""
    serve(_run)


def serve(run: Callable[[Orders, int], Verdict]) -> None:
    """Wait for orders, run them and tell what came of it; ``sys.argv`` names the descriptor of the socket
    last. Never returns.
    """
    control = int(sys.argv[-1])
    os.set_inheritable(control, False)  # noqa: FBT003 - has no keyword
    orders = Orders.receive(control)
    if orders is not None:
        os.umask(0)
        syscalls.adopt_orphans()
        try:
            verdict = run(orders, control)
        except StepFailed as failure:
            verdict = failure.verdict
        except MountFailed as failure:
            number, target = failure.error.errno or 0, os.fsdecode(failure.target)
            verdict = ("refused", target, number, about(failure.error) or str(failure.error))
        except _BuilderEnded:
            verdict = ("failed", "waiting for the builder", 0, "")
        except StoreError as error:
            cause = error.__cause__
            number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
            verdict = ("store", "writing the root", number, error.message)
        except AsyncbuildError as error:
            verdict = ("failed", "reading or writing the root", 0, error.message)
        except BaseException as error:  # noqa: BLE001 - the builder shows it; there is no one else
            verdict = ("failed", "its helper", 0, repr(error))
        tell(control, verdict)
    os._exit(0)


def _run(orders: Orders, control: int) -> Verdict:
    builder = Builder(control)
    tree, work = os.fsdecode(orders.tree), os.fsdecode(orders.work)
    lowers = [os.fsdecode(path) for path in orders.lower_directories]
    with Step("making the root"):
        if orders.fresh:
            make_root(lowers, tree)
        for layer in orders.increments:
            builder.check()
            apply_layer(os.fsdecode(layer), tree)
        before = walk(tree, builder.check)
    aside = f"{work}/aside"
    os.mkdir(aside, 0o700)
    places = Places(tree, aside)
    try:
        fifos = _put_in_place(orders, places)
        code = execute(orders, builder, control, fifos)
    finally:
        places.take_away()
    if code == 0:
        with Step("looking for what changed"):
            after = walk(tree, builder.check)
            Upper(tree, os.fsdecode(orders.upper), lowers, keep=orders.keep).write(before, after)
    return ("ended", code)


def _put_in_place(orders: Orders, places: Places) -> list[str]:
    with Step("making /dev"):
        files = [(os.fsdecode(path), mode, data) for path, mode, data in orders.files]
        fifos = furnish(places, files)
    for name, data in (("resolv.conf", orders.resolv_conf), ("hosts", orders.hosts)):
        # an image whose /etc is no directory gets neither
        with suppress(NotADirectoryError):
            places.cover(f"etc/{name}", lambda host, data=data: write_file(host, data, 0o644))  # type: ignore[misc]
    show_mounts(places, [MountOrder(fields) for fields in orders.mounts])
    return fifos


def execute(orders: Orders, builder: Builder, control: int, fifos: list[str]) -> int:
    """Run the command in the tree; its exit code. What it wrote to ``fifos`` is output, too."""
    if not orders.network:
        with Step("RUN --network=none: making a network namespace"):
            _leave_network()
    if not _may_filter(orders):
        orders.filter = b""
    streams = {
        os.open(path, os.O_RDWR | os.O_NONBLOCK): to
        for path, to in zip(fifos, (1, 2), strict=False)
    }
    command = os.fork()
    if command == 0:
        _enter(orders)
    try:
        return _watch(command, builder, control, streams)
    finally:
        _kill_descendants()
        for stream, to in streams.items():
            _relay(stream, to)
            os.close(stream)


def _leave_network() -> None:
    """Once for this process; the namespace is the command's too."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    syscalls.raise_loopback()


def _enter(orders: Orders) -> None:
    """The command's process: into the root, then as in every sandbox. Never returns."""
    try:
        syscalls.die_with_parent()
        sys.path.clear()  # nothing is imported from an image, ever
        sys.path_importer_cache.clear()
        if orders.tree != b"/":
            os.chroot(orders.tree)
        os.chdir("/")
        become_command(orders)
    except StepFailed as failure:
        os.write(2, f"asyncbuild: {failure}: {failure.verdict[2:]}\n".encode())
    except BaseException as error:  # noqa: BLE001 - the only way to say it
        os.write(2, f"asyncbuild: {error!r}\n".encode())
    finally:
        os._exit(126)


def _watch(command: int, builder: Builder, control: int, streams: dict[int, int]) -> int:
    """Until the command ends: relay, collect the dead, and stop if the builder is gone."""
    handle = os.pidfd_open(command)
    events = select.poll()
    for number in (handle, control, *streams):
        events.register(number, select.POLLIN)
    try:
        while True:
            ready = {number for number, _ in events.poll(_PAUSE_MS)}
            for stream in ready & set(streams):
                _relay(stream, streams[stream])
            if control in ready:
                builder.check()
            status = _collect(command)
            if status is not None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    finally:
        os.close(handle)


def _collect(command: int) -> int | None:
    """Wait for everyone who is dead; the command's status if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == command:
            found = status


def _relay(stream: int, to: int) -> None:
    """Pass on what was written to a fifo."""
    while True:
        try:
            data = os.read(stream, _CHUNK)
        except BlockingIOError:
            return
        os.write(to, data)


def _kill_descendants() -> None:
    """Kill whatever descends from this process, until nothing does: it adopts those that are orphaned."""
    while True:
        for pid in _descendants():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        select.select([], [], [], 0.002)  # a killed process needs a moment to be dead


def _descendants() -> list[int]:
    """The processes below this one, by the parents that /proc names."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _may_filter(orders: Orders) -> bool:
    """Whether the kernel takes a filter: from whoever has CAP_SYS_ADMIN, or gives up new privileges."""
    try:
        with open("/proc/self/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    admin = int(lines.get(b"CapEff", b"0"), 16) >> _CAP_SYS_ADMIN & 1
    return bool(admin) or orders.no_new_privileges or lines.get(b"NoNewPrivs", b"").strip() == b"1"
