"""What a RUN finds in its root beside the image: /proc, /sys, /dev and the network's two files.

Runs in the sandbox's own process, like `asyncbuild.rootfs.overlay`, in the stage. The list of mounts,
masked and read-only paths is that of containerd's default specification (``pkg/oci/spec.go`` and
``mounts.go``), as BuildKit uses it: no tmpfs on /run, and /etc/hosts and /etc/resolv.conf read-only.

A privileged RUN (``--security=insecure``) finds what BuildKit gives it (``util/entitlements/security``):
nothing is masked, /sys can be written, and there are the machine's loop, fuse, kvm and tun devices.

Two differences. There is no device cgroup here, so device nodes are kept shut by the mounts: the root
and /dev are mounted ``nodev`` (a RUN may make any node, and can open none), and the six devices that it
may use are bound one by one from the stage, out of its reach. And /sys/fs/cgroup is not mounted,
except for a privileged RUN, which sees this machine's.
"""

from __future__ import annotations

import errno
import os
import stat

from asyncbuild.rootfs import syscalls
from asyncbuild.rootfs.overlay import ROOT
from asyncbuild.rootfs.syscalls import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_STRICTATIME,
    mount,
)

SYSTEM_DIRECTORIES = (b"proc", b"sys", b"dev")
"""The mount points that every RUN has, in the root."""

_DEVICES = (
    (b"null", 1, 3),
    (b"zero", 1, 5),
    (b"full", 1, 7),
    (b"random", 1, 8),
    (b"urandom", 1, 9),
    (b"tty", 5, 0),
)
_PRIVILEGED_DEVICES = (
    (b"kmsg", 1, 11),
    (b"cuse", 10, 203),
    (b"fuse", 10, 229),
    (b"kvm", 10, 232),
    (b"net/tun", 10, 200),
    (b"loop-control", 10, 237),
)
_LOOPS = 16
_CGROUPS = b"/sys/fs/cgroup"
_LINKS = (
    (b"/proc/self/fd", b"fd"),
    (b"/proc/self/fd/0", b"stdin"),
    (b"/proc/self/fd/1", b"stdout"),
    (b"/proc/self/fd/2", b"stderr"),
    (b"/proc/kcore", b"core"),
    (b"pts/ptmx", b"ptmx"),
)
MASKED = (
    b"proc/acpi",
    b"proc/asound",
    b"proc/kcore",
    b"proc/keys",
    b"proc/latency_stats",
    b"proc/timer_list",
    b"proc/timer_stats",
    b"proc/sched_debug",
    b"proc/scsi",
    b"sys/firmware",
    b"sys/devices/virtual/powercap",
)
READ_ONLY = (b"proc/bus", b"proc/fs", b"proc/irq", b"proc/sys", b"proc/sysrq-trigger")
_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC


def mount_proc_and_sys() -> None:
    """The processes of this pid namespace, and the kernel's objects, without what is not a RUN's."""
    mount(b"proc", _inside(b"proc"), b"proc", _SAFE)
    _mount_sys(_SAFE | MS_RDONLY)
    for name in MASKED:
        path = _inside(name)
        kind = _kind(path)
        if kind is not None:
            syscalls.bind(b"void" if stat.S_ISDIR(kind) else b"null", path, _SAFE | MS_RDONLY)
    for name in READ_ONLY:
        path = _inside(name)
        if _kind(path) is not None:
            syscalls.bind(path, path, _SAFE | MS_RDONLY)


def _mount_sys(flags: int) -> None:
    """A sysfs of our own, without what is mounted in this machine's; or this machine's.

    To mount one is the right of who owns the network namespace: in a user namespace, not this machine's.
    """
    try:
        mount(b"sysfs", _inside(b"sys"), b"sysfs", flags)
    except PermissionError:
        show_sys(_inside(b"sys"), read_only=bool(flags & MS_RDONLY))


def show_sys(target: bytes, *, read_only: bool) -> None:
    """Show this machine's /sys at ``target``, without its control groups."""
    flags = _SAFE | (MS_RDONLY if read_only else 0)
    syscalls.bind(b"/sys", target, flags)
    cgroups = os.path.join(target, _CGROUPS.removeprefix(b"/sys/"))
    if _kind(cgroups) is not None:
        mount(b"void", cgroups, b"tmpfs", flags | MS_RDONLY, b"mode=755,size=4k")


def mount_all_of_proc_and_sys() -> None:
    """/proc and /sys for a privileged RUN."""
    mount(b"proc", _inside(b"proc"), b"proc", _SAFE)
    _mount_sys(_SAFE)
    if os.path.isdir(_CGROUPS):
        syscalls.bind(_CGROUPS, _inside(_CGROUPS.strip(b"/")), 0)


def make_devices() -> None:
    """The device nodes, in the stage; before `mount_proc_and_sys`, which masks files by ``null``."""
    for name, major, minor in _DEVICES:
        try:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        except PermissionError:  # in a user namespace
            show_device(name, stat.S_IFCHR, os.makedev(major, minor))


def show_device(name: bytes, mode: int, number: int) -> None:
    """Show this machine's device with the type of ``mode`` and this number at ``name``, a new file."""
    kind = b"char" if stat.S_ISCHR(mode) else b"block"
    known = b"/dev/%b/%d:%d" % (kind, os.major(number), os.minor(number))
    wanted = (stat.S_IFMT(mode), number)
    named = [known, b"/dev/" + name]
    path = _first_device(named, wanted) or _first_device(_machine_devices(), wanted)
    if path is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), known)
    _touch(name)
    syscalls.bind(path, name, 0)


def _first_device(paths: list[bytes], wanted: tuple[int, int]) -> bytes | None:
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        if (stat.S_IFMT(found.st_mode), found.st_rdev) == wanted:
            return path
    return None


def _machine_devices() -> list[bytes]:
    """Everything in /dev and the directories in it, but for those that are file systems of files."""
    found = []
    for entry in os.scandir(b"/dev"):
        found.append(entry.path)
        if entry.is_dir(follow_symlinks=False) and entry.name not in (b"shm", b"mqueue", b"pts"):
            found += [below.path for below in os.scandir(entry.path)]
    return found


def mount_dev(shm_size: int, *, privileged: bool, queues: bool = True) -> None:
    """A /dev of our own; ``shm_size`` in bytes. ``queues``: with those of this ipc namespace."""
    flags = MS_NOSUID | (0 if privileged else MS_NODEV)
    mount(b"dev", _inside(b"dev"), b"tmpfs", flags | MS_STRICTATIME, b"mode=755,size=65536k")
    for name, _, _ in _DEVICES:
        path = _inside(b"dev", name)
        _touch(path)
        syscalls.bind(name, path, 0)
    if privileged:
        _make_privileged_devices()
    for target, name in _LINKS:
        os.symlink(target, _inside(b"dev", name))
    for name in (b"pts", b"shm", b"mqueue"):
        os.mkdir(_inside(b"dev", name), 0o755)
    options = b"newinstance,ptmxmode=0666,mode=0620"
    pts, safe = _inside(b"dev/pts"), MS_NOSUID | MS_NOEXEC
    try:
        mount(b"devpts", pts, b"devpts", safe, options + b",gid=5")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount(b"devpts", pts, b"devpts", safe, options)  # a namespace without a group 5
    mount(b"shm", _inside(b"dev/shm"), b"tmpfs", _SAFE, b"mode=1777,size=%d" % shm_size)
    if queues:
        mount(b"mqueue", _inside(b"dev/mqueue"), b"mqueue", _SAFE)


def _make_privileged_devices() -> None:
    os.mkdir(_inside(b"dev/net"), 0o755)
    wanted = [
        (name, stat.S_IFCHR | 0o666, os.makedev(*pair)) for name, *pair in _PRIVILEGED_DEVICES
    ]
    wanted += [(b"loop%d" % n, stat.S_IFBLK | 0o660, os.makedev(7, n)) for n in range(_LOOPS)]
    for name, mode, number in wanted:
        path = _inside(b"dev", name)
        try:
            os.mknod(path, mode, number)
        except PermissionError:  # in a user namespace: those that this machine has
            try:
                show_device(path, mode, number)
            except FileNotFoundError:
                continue


def write_file(path: bytes, mode: int, data: bytes) -> None:
    """A file of ours at ``path`` in /dev (absolute), with its parents."""
    target = _inside(path.strip(b"/"))
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    with open(target, "xb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)


def show_file(name: bytes, data: bytes, path: bytes) -> None:
    """Show a read-only file with these bytes at ``path`` in the root, where there is a file."""
    with open(name, "xb") as file:
        file.write(data)
        os.fchmod(file.fileno(), 0o644)
    syscalls.bind(name, _inside(path), _SAFE | MS_RDONLY)


def _inside(*names: bytes) -> bytes:
    return os.path.join(ROOT, *names)


def _kind(path: bytes) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _touch(path: bytes) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644))
