"""The sandbox's own process: it makes the namespaces and mounts of one RUN, and watches over it.

::

    builder ---- socket ----> helper ---- fork ----> init = pid 1 ---- fork ----> the command
    (trio)       orders       (this module, one thread, in a session of its own)
                 <- verdict

The builder starts the helper by exec, never by fork (a fork of a large, threaded process is slow and
unsafe), and may do so before it knows what to run: the helper waits for its orders. It then forks the
init into a new pid namespace. The init leaves the other namespaces too, makes every mount in its own
mount namespace, starts the command and reaps what dies. When the command ends the init exits, and with
pid 1 the kernel kills whatever is left in the namespace; with the last process the mounts vanish. So
nothing survives, whoever is killed:

- the builder ends or cancels: the socket reports its end, and the helper kills the init;
- the helper is killed: the kernel kills the init (PDEATHSIG; the helper has one thread only).

A death signal from the builder is no use: it would fire when the *thread* that started us ends.

The verdict is the last message on the socket: ``("ended", code)``, or ``("failed", step, errno, text)``
if the sandbox could not be made. Without one the helper was killed. `asyncbuild.rootfs.orders` says how
both travel.

This module and what it imports must start fast: no dataclasses, typing, pathlib, json or signal here.
After the root has changed nothing may be imported any more: modules would come from the image.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import sys

from asyncbuild.rootfs import furniture, layering, overlay, syscalls
from asyncbuild.rootfs.mounts import MountFailed, MountOrder, Mounts
from asyncbuild.rootfs.orders import Orders, framed

Verdict = tuple[str | int, ...]

COMMAND_NOT_FOUND = 127
COMMAND_NOT_EXECUTABLE = 126

DEFAULT_CAPABILITIES = frozenset((0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
"""Docker's: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW
SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP."""


def main() -> None:
    """The helper; ``sys.argv`` names the descriptor of the socket last. Never returns."""
    control = int(sys.argv[-1])
    os.set_inheritable(control, False)  # noqa: FBT003 - has no keyword
    orders = Orders.receive(control)
    if orders is not None:
        try:
            verdict = _supervise(_start_init(orders, control), control)
            if orders.fuse and verdict == ("ended", 0):
                with Step("reading what fuse-overlayfs wrote"):
                    layering.translate(os.fsdecode(orders.upper))
        except StepFailed as failure:
            verdict = failure.verdict
        tell(control, verdict)
    os._exit(0)  # taking the interpreter down in order would cost milliseconds


def _start_init(orders: Orders, control: int) -> int:
    """Fork the init; the helper keeps no end of the command's output."""
    helper_lives, helper_end = os.pipe()
    with Step("making a pid namespace"):
        syscalls.unshare(syscalls.CLONE_NEWPID)
        init = os.fork()
    if init == 0:
        os.close(helper_end)
        _run_init(orders, control, helper_lives)
    os.dup2(0, 1)
    os.dup2(0, 2)
    return init


def _supervise(init: int, control: int) -> Verdict:
    """Wait for the init's end, or for the builder's: then kill the init, and all its namespace."""
    handle = os.pidfd_open(init)
    events = select.poll()
    events.register(handle, select.POLLIN)
    events.register(control, select.POLLIN)
    ready = {number for number, _ in events.poll()}
    if control in ready:
        os.kill(init, syscalls.SIGKILL)
    # Answers when the whole pid namespace is empty.
    _, status = os.waitpid(init, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return ("failed", "watching the command", 0, f"its init was killed by signal {-code}")
    return ("ended", code)


def tell(control: int, verdict: Verdict) -> None:
    """Send the verdict; it is the last message."""
    try:  # noqa: SIM105 - contextlib takes too long to import
        os.write(control, framed(marshal.dumps(verdict)))
    except OSError:
        pass  # the builder is gone: nobody wants to know


def about(error: OSError) -> str:
    """What the system's answer is about, if it is a name that a person can know."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    return "" if name.startswith("/proc/self/") else name


class StepFailed(Exception):
    """A step of making the sandbox failed; it has a name and the system's answer."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step)
        what = error.filename
        name = os.fsdecode(what) if isinstance(what, (str, bytes)) else ""
        self.verdict: Verdict = ("failed", step, error.errno or 0, name)


class Step:
    """Names what is being done, for the error if it fails."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise StepFailed(self._name, error) from error


def _run_init(orders: Orders, control: int, helper_lives: int) -> None:
    """Everything that the init does; never returns."""
    code = 1
    try:
        syscalls.die_with_parent()
        if _has_ended(helper_lives):  # before the line above took effect
            return
        code = _execute_by_runtime(orders) if orders.runtime else _execute(orders)
        if orders.fuse:
            syscalls.sync_file_system(b"/")  # what was written through mmap, before its server ends
    except StepFailed as failure:
        tell(control, failure.verdict)
    except MountFailed as failure:
        number, target = failure.error.errno or 0, os.fsdecode(failure.target)
        kind = "unmapped" if failure.mapping else "refused"
        tell(control, (kind, target, number, about(failure.error)))
    except BaseException as error:  # noqa: BLE001 - the builder shows it; there is no one else
        tell(control, ("failed", "making the sandbox", 0, repr(error)))
    finally:
        os._exit(code)


def _execute(orders: Orders) -> int:
    """Make the sandbox, run the command in it; its exit code."""
    _make_sandbox(orders)
    syscalls.hide_from_ptrace()
    command = os.fork()
    if command == 0:
        become_command(orders)
    let_go_of_output()
    return reap(command)


def _execute_by_runtime(orders: Orders) -> int:
    from asyncbuild.rootfs import oci_run  # noqa: PLC0415 - takes longer to import than most RUNs need

    return oci_run.execute(orders)


def let_go_of_output() -> None:
    """Keep no end of the command's output."""
    os.dup2(0, 1)
    os.dup2(0, 2)


def _has_ended(pipe: int) -> bool:
    events = select.poll()
    events.register(pipe, 0)
    return bool(events.poll(0))


def reap(command: int) -> int:
    """Wait for whoever dies, until it is the command; its exit code."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == command:
            return exit_code(status)


def exit_code(status: int) -> int:
    """As shells have it: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _make_sandbox(orders: Orders) -> None:
    os.umask(0)
    with Step("making mount, ipc and uts namespaces"):
        flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
        syscalls.unshare(flags)
        syscalls.mount(b"", b"/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.set_hostname(orders.hostname)
    if not orders.network:
        with Step("making a network namespace"):
            syscalls.unshare(syscalls.CLONE_NEWNET)
            syscalls.raise_loopback()
    mounts, files = mount_root(orders)
    with Step("mounting /proc, /sys and /dev"):
        _furnish(orders)
    show_files(orders, files)
    mounts.attach()
    enter_root(orders)


File = tuple[bytes, bytes, bytes]
"""A file that is shown in the root: a name in the stage, its bytes, its path."""


def mount_root(orders: Orders) -> tuple[Mounts, list[File]]:
    """Open the stage, prepare the mounts in it, and mount the root with a place for each; the files are for
    `show_files`.
    """
    with Step("mounting the root"):
        overlay.open_stage(orders.work)
        users = orders.user_marks
        shown = layering.Layering(user_marks=users, program=orders.fuse)
        root = overlay.Overlay(orders.lower_directories, orders.upper, orders.work, shown)
    orders_of_mounts = [MountOrder(fields) for fields in orders.mounts]
    mounts = Mounts(orders_of_mounts, shown, devices=orders.privileged, user_marks=users)
    with Step("mounting the root"):
        files = _place(orders, root)
        mounts.place(root)
        root.mount(0 if orders.privileged else syscalls.MS_NODEV)
    return mounts, files


def show_files(orders: Orders, files: list[File]) -> None:
    """Show what belongs to /dev, which is mounted, and to /etc."""
    with Step("showing files"):
        for path, mode, data in orders.files:
            furniture.write_file(path, mode, data)
        for name, data, path in files:
            furniture.show_file(name, data, path)


def enter_root(orders: Orders) -> None:
    """Make the mounted root this process's root."""
    with Step("entering the root"):
        if orders.fuse:  # whoever serves the root must not have it as its own
            syscalls.unshare(syscalls.CLONE_NEWNS)
        _enter_root()


def _furnish(orders: Orders) -> None:
    furniture.make_devices()
    if orders.privileged:
        furniture.mount_all_of_proc_and_sys()
    else:
        furniture.mount_proc_and_sys()
    furniture.mount_dev(orders.shm_size, privileged=orders.privileged)


def _place(orders: Orders, root: overlay.Overlay) -> list[File]:
    """Find or make the mount points that every RUN has; the network's two files (name, bytes, path)."""
    for directory in furniture.SYSTEM_DIRECTORIES:
        root.place(directory, directory=True)
    files = []
    for name, data in ((b"resolv.conf", orders.resolv_conf), (b"hosts", orders.hosts)):
        path = root.place(b"etc/" + name, directory=False)
        if path is not None:  # an image whose /etc is no directory gets neither
            files.append((name, data, path))
    return files


def _enter_root() -> None:
    """Make the mounted root this process's root, and the machine's own unreachable.

    Where a container's filter refuses pivot_root (docker's default does, whatever the capabilities), it is
    moved over the machine's: nobody comes below it who may not unmount.
    """
    sys.path.clear()  # nothing is imported from an image, ever
    sys.path_importer_cache.clear()
    os.chdir(overlay.ROOT)
    try:
        syscalls.pivot_root(b".", b".")
        syscalls.unmount(b".", syscalls.MNT_DETACH)
    except PermissionError:
        syscalls.move(b".", b"/")
        os.chroot(".")
    os.chdir("/")


def become_command(orders: Orders) -> None:
    """In the child: the command's session, streams, directory and credentials, then exec."""
    os.setsid()
    with Step("entering the working directory"):
        enter_directory(orders)
    with Step("opening /dev/null"):
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        for stream in (1, 2):  # or a user could not open /dev/stdout (as runc does)
            _give_stream(stream, orders.uid)
    with Step("setting resource limits"):
        for resource, soft, hard in orders.limits:
            syscalls.set_limit(resource, soft, hard)
    with Step("setting user, groups and capabilities"):
        if orders.privileged:
            syscalls.keep_all_capabilities()
        else:
            _limit_capabilities()
        _set_groups(orders.groups)
        os.setresgid(orders.gid, orders.gid, orders.gid)
        if orders.no_new_privileges:
            syscalls.forbid_new_privileges()
        if orders.filter:
            syscalls.filter_system_calls(orders.filter)
        os.setresuid(orders.uid, orders.uid, orders.uid)
        if orders.privileged:
            syscalls.raise_all_capabilities()
    os.umask(0o022)
    syscalls.default_signals()
    _exec(orders)


def _limit_capabilities() -> None:
    try:
        syscalls.limit_capabilities(DEFAULT_CAPABILITIES)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise  # without CAP_SETPCAP nothing can be dropped: the place has done so itself


def _give_stream(stream: int, uid: int) -> None:
    """An id that the user namespace has not got is refused where it is taken on, with a better word."""
    try:
        os.fchown(stream, uid, -1)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _set_groups(groups: list[int]) -> None:
    """Not where a user namespace has one id only: there is no other group, and the kernel refuses."""
    try:
        os.setgroups(groups)
    except PermissionError:
        with open("/proc/self/setgroups", "rb") as file:
            if file.read().strip() != b"deny":
                raise


def enter_directory(orders: Orders) -> None:
    """BuildKit makes a working directory that an earlier RUN removed, and gives it to the user."""
    path = b"/"
    for part in filter(None, orders.working_directory.split(b"/")):
        path = os.path.join(path, part)
        try:
            os.stat(path)
        except FileNotFoundError:
            os.mkdir(path, 0o755)
            os.chown(path, orders.uid, orders.gid)
    os.chdir(path)


def _exec(orders: Orders) -> None:
    """Become the program, looked up in the command's own PATH; say why not as a shell would."""
    program = orders.argv[0]
    if b"/" in program:
        candidates = [program]
    else:
        path = orders.environment.get(b"PATH", b"")
        candidates = [os.path.join(part or b".", program) for part in path.split(b":")]
    worst = errno.ENOENT
    for candidate in candidates:
        try:
            os.execve(candidate, orders.argv, orders.environment)  # noqa: S606
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                worst = error.errno or errno.EIO
    missing = worst == errno.ENOENT
    where = b"" if b"/" in program else b" in PATH"
    reason = b"not found" + where if missing else os.strerror(worst).encode()
    os.write(2, b"asyncbuild: cannot run " + program + b": " + reason + b"\n")
    os._exit(COMMAND_NOT_FOUND if missing else COMMAND_NOT_EXECUTABLE)
