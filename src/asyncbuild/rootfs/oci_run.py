"""RUN by an OCI runtime: what the init does instead of running the command itself.

The init (`asyncbuild.rootfs.init`, in a pid namespace of this RUN) makes the stage and the root in a mount
namespace of its own, as it always does, then writes a bundle into the stage and lets the runtime create the
container and start it. The runtime ends when the command has begun; the command, orphaned, is the init's
child, which waits for it and tells its exit code.

The runtime's state (``--root``), its log and the bundle, in which the environment stands, are in the stage:
a file system in memory that nothing outside sees, and that is gone with the last process of the RUN,
however it ends. Control groups are shown to the runtime, but it can make none: limits are those of the
group that the builder has put the helper into, and nothing is left behind by a runtime that is killed. So
runc is told to do without, and crun needs none. (Of a machine that has both versions they see the second
alone, which crun wants.)

A runtime's own words for a program that is not there are many, and so are its exit codes. Therefore the
init rehearses: a process in the root becomes the command, as in our own sandbox, and is stopped by the
kernel (ptrace) where its first instruction would be. So the errors are the same, and so is the working
directory.
"""

from __future__ import annotations

import json
import os
import sys

from asyncbuild.rootfs import furniture, init, overlay, syscalls
from asyncbuild.rootfs.init import Step, StepFailed
from asyncbuild.rootfs.oci_bundle import Held, Place, configuration
from asyncbuild.rootfs.orders import Orders

_CGROUPS = b"/sys/fs/cgroup"
_LATE = (b"proc", b"sys", b"dev/mqueue")
"""What the runtime mounts: whatever belongs below these comes after it."""
_SAFE = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_NAME = b"asyncbuild-run"
_ENVIRONMENT = {b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def execute(orders: Orders) -> int:
    """Do everything that a RUN needs; its exit code. Only an init may call this."""
    os.umask(0)
    with Step("making a mount namespace"):
        # to mount control groups is the right of who owns their namespace
        more = syscalls.CLONE_NEWCGROUP if orders.user_marks else 0
        syscalls.unshare(syscalls.CLONE_NEWNS | more)
        syscalls.mount(b"", b"/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    mounts, files = init.mount_root(orders)
    with Step("mounting /proc and /dev"):
        furniture.make_devices()
        furniture.mount_dev(orders.shm_size, privileged=orders.privileged, queues=False)
        syscalls.mount(b"proc", b"/proc", b"proc")
        syscalls.mount(b"proc", os.path.join(overlay.ROOT, b"proc"), b"proc")
    init.show_files(orders, files)
    late = mounts.take_below(_LATE)
    mounts.attach()
    code = _rehearse(orders)
    if code:
        return code
    with Step("preparing what the runtime mounts"):
        syscalls.unmount(os.path.join(overlay.ROOT, b"proc"))
        places = _prepare_places(orders)
    places += [(b"/" + path, _staged(name), flags) for path, name, flags in late]
    _write_bundle(orders, places)
    syscalls.hide_from_ptrace()
    command, ended = _start(orders)
    init.enter_root(orders)
    init.let_go_of_output()
    return init.exit_code(ended[command]) if command in ended else init.reap(command)


def _staged(name: bytes) -> bytes:
    return os.path.join(os.getcwdb(), name)


def _rehearse(orders: Orders) -> int:
    """Make the working directory, and find out whether the command can be executed: 0, or its exit code.

    What stands in the way of more than the command is raised in the child, whose handler tells it first.
    """
    child = os.fork()
    if child == 0:
        sys.path.clear()  # nothing is imported from an image, ever
        sys.path_importer_cache.clear()
        os.chroot(overlay.ROOT)
        os.chdir("/")
        try:
            syscalls.be_traced()
        except OSError:  # some places forbid it: then the runtime's own words have to do
            with Step("entering the working directory"):
                init.enter_directory(orders)
            os._exit(0)
        init.become_command(orders)
    _, status = os.waitpid(child, 0)
    if os.WIFSTOPPED(status):
        os.kill(child, syscalls.SIGKILL)
        os.waitpid(child, 0)
        return 0
    return init.exit_code(status)


def _prepare_places(orders: Orders) -> list[Place]:
    """/dev, and what of /sys the runtime cannot mount itself; then hide this machine's control groups."""
    os.mkdir(b"dev", 0o755)
    syscalls.move(os.path.join(overlay.ROOT, b"dev"), b"dev")
    shut = 0 if orders.privileged else syscalls.MS_NODEV
    places = [(b"/dev", _staged(b"dev"), syscalls.MS_NOSUID | shut)]
    if orders.user_marks and orders.network:  # a sysfs is whose the network namespace is
        os.mkdir(b"sys", 0o755)
        furniture.show_sys(b"sys", read_only=not orders.privileged)
        read_only = 0 if orders.privileged else syscalls.MS_RDONLY
        places.append((b"/sys", _staged(b"sys"), _SAFE | read_only))
    if orders.privileged and os.path.isdir(_CGROUPS):
        os.mkdir(b"cgroups", 0o755)
        syscalls.bind(_CGROUPS, b"cgroups", 0)
        places.append((_CGROUPS, _staged(b"cgroups"), 0))
    syscalls.mount(b"cgroup", _CGROUPS, b"cgroup2", syscalls.MS_RDONLY)
    return places


def _write_bundle(orders: Orders, places: list[Place]) -> None:
    root = _staged(overlay.ROOT)
    settings = configuration(orders, root, places, _held(), os.uname().machine)
    with Step("writing the runtime's bundle"):
        os.mkdir(b"bundle", 0o700)
        with open(b"bundle/config.json", "x", encoding="utf-8") as file:
            json.dump(settings, file)


def _held() -> Held:
    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.split(":", 1) for line in file if ":" in line)
    capabilities = int(status["CapPrm"], 16) & int(status["CapBnd"], 16)
    try:
        with open("/proc/self/setgroups", encoding="utf-8") as file:
            groups = file.read().strip() != "deny"
    except FileNotFoundError:
        groups = True
    return Held(capabilities, groups=groups)


def _start(orders: Orders) -> tuple[int, dict[int, int]]:
    """Let the runtime start the command: its pid, and the statuses of who has ended meanwhile."""
    ended: dict[int, int] = {}
    _call(
        orders, [b"create", b"--pid-file", _staged(b"pid"), b"--bundle", _staged(b"bundle")], ended
    )
    with open(b"pid", "rb") as file:
        command = int(file.read())
    if not orders.privileged:
        _shut_devices(command)
    _call(orders, [b"start"], ended)
    return command, ended


def _call(orders: Orders, words: list[bytes], ended: dict[int, int]) -> None:
    """Call the runtime, and add to ``ended`` whoever ends until it does."""
    log = [b"--root", _staged(b"state"), b"--log", _staged(b"log"), b"--log-format", b"json"]
    line = [*orders.runtime, *log, *words, _NAME]
    runtime = os.fork()
    if runtime == 0:
        try:
            syscalls.default_signals()
            os.execve(line[0], line, _ENVIRONMENT)  # noqa: S606
        finally:
            os._exit(127)
    while runtime not in ended:
        pid, status = os.waitpid(-1, 0)
        ended[pid] = status
    code = init.exit_code(ended[runtime])
    if code:
        name = os.fsdecode(os.path.basename(line[0]))
        said = _complaint() or f"its exit code is {code}"
        raise StepFailed(f"OCI runtime {name}", OSError(0, "", said))


def _shut_devices(command: int) -> None:
    """Keep the root of the waiting container ``nodev``: crun binds it anew, and loses that."""
    child = os.fork()
    if child == 0:
        with Step("keeping devices shut"):
            namespace = os.open(b"/proc/%d/ns/mnt" % command, os.O_RDONLY)
            syscalls.enter_namespace(namespace, syscalls.CLONE_NEWNS)
            again = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_NODEV
            syscalls.mount(b"", b"/", flags=again)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise StepFailed("keeping devices shut", OSError(0, "", "see above"))


def _complaint() -> str:
    """The last error in the runtime's log."""
    said = ""
    try:
        with open(b"log", "rb") as file:
            for line in file:
                entry = json.loads(line)
                if entry.get("level") in ("error", "fatal"):
                    said = str(entry.get("msg", ""))
    except (OSError, ValueError):
        pass
    return said
