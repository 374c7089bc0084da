"""The Linux system calls that a RUN needs and Python 3.11 does not offer, through ctypes.

This module is loaded by the sandbox's own small process (see `asyncbuild.rootfs.init`), whose start-up
is on every RUN's path: nothing is imported here beyond ctypes and os. Constants are those of
``linux/mount.h``, ``linux/sched.h``, ``linux/prctl.h`` and ``linux/capability.h``.

Every function raises OSError; ``filename`` says what the call was about.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 0x2000
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2

SIGKILL = 9
"""Here and not from the signal module, whose import (enum) takes longer than ours together."""

AT_RECURSIVE = 0x8000
"""Of mount_setattr and open_tree: the mounts below too."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x2008_0522
_SYS_OPENAT2 = 437
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277}
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x10_0000
_RESOLVE_IN_ROOT = 0x10
_SIGNALS = 64
_CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.ptrace.restype = ctypes.c_long
_statx = getattr(_libc, "statx", None)


def _checked(result: int, what: str | bytes) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` (CLONE_NEW…) name for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def enter_namespace(handle: int, kind: int) -> None:
    """setns(2): enter the namespace of ``kind`` (CLONE_NEW…) that ``handle`` stands for."""
    _checked(_libc.setns(ctypes.c_int(handle), ctypes.c_int(kind)), "setns")


def mount(
    source: bytes, target: bytes, kind: bytes = b"", flags: int = 0, options: bytes = b""
) -> None:
    """Mount; ``options`` must fit a page (4,096 bytes), or the kernel's answer misleads."""
    kind_or_none, options_or_none = kind or None, options or None
    result = _libc.mount(source, target, kind_or_none, ctypes.c_ulong(flags), options_or_none)
    _checked(result, target)


def bind(source: bytes, target: bytes, flags: int) -> None:
    """Show ``source``, with what is mounted in it, at ``target``; the flags are added for all of it."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if flags:
        change_flags(target, flags)


def move(source: bytes, target: bytes) -> None:
    """Move a mount, with those below it."""
    mount(source, target, flags=MS_MOVE)


def change_flags(target: bytes, flags: int) -> None:
    """Add MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC to a mount and those below it.

    A kernel before 5.12 does so for the mount itself alone, and so loses the mounts below it.
    """
    change = _MountAttributes(flags, 0, 0, 0)  # MOUNT_ATTR_… have the values of MS_…
    size = ctypes.c_size_t(ctypes.sizeof(change))
    number, at = ctypes.c_long(_SYS_MOUNT_SETATTR), ctypes.c_int(_AT_FDCWD)
    recursive = ctypes.c_uint(AT_RECURSIVE)
    result = _libc.syscall(number, at, target, recursive, ctypes.byref(change), size)
    if result < 0 and ctypes.get_errno() == errno.ENOSYS:
        mount(target, target, flags=MS_BIND)
        mount(b"", target, flags=MS_REMOUNT | MS_BIND | flags)
        return
    _checked(int(result), target)


def unmount(target: bytes, flags: int = 0) -> None:
    """umount2(2)."""
    _checked(_libc.umount2(target, ctypes.c_int(flags)), target)


def pivot_root(new: bytes, old: bytes) -> None:
    """Make the mount ``new`` the root of this mount namespace; the former root lands at ``old``."""
    _checked(_libc.pivot_root(new, old), new)


def sync_file_system(path: bytes) -> None:
    """syncfs(2): what was written to the file system of ``path`` is where it belongs."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _checked(_libc.syncfs(ctypes.c_int(handle)), path)
    finally:
        os.close(handle)


def set_hostname(name: bytes) -> None:
    """Name this machine, within its uts namespace."""
    _checked(_libc.sethostname(name, ctypes.c_size_t(len(name))), name)


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """A descriptor of ``path`` as a process would find it whose root is the directory ``root``.

    Links, absolute ones and ``..`` too, never lead out of the root (openat2, RESOLVE_IN_ROOT).
    """
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    number = ctypes.c_long(_SYS_OPENAT2)
    result = _libc.syscall(
        number, ctypes.c_int(root), path, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    )
    return _checked(int(result), path)


def die_with_parent() -> None:
    """Be killed when the thread that forked this process ends. Its parent must not be threaded."""
    _prctl(_PR_SET_PDEATHSIG, SIGKILL)


def be_traced() -> None:
    """From here on the parent traces this process: it stops before a program's first instruction."""
    none = ctypes.c_void_p(0)
    _checked(int(_libc.ptrace(ctypes.c_long(0), ctypes.c_int(0), none, none)), "ptrace")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """No exec from here on gives more rights: neither set-user-id bits nor file capabilities do."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def birth_ns(path: str) -> int:
    """When the inode at ``path`` (not followed) was made, in ns; 0 where the file system does not know."""
    found = ctypes.create_string_buffer(256)
    at, flags, mask = ctypes.c_int(_AT_FDCWD), ctypes.c_int(0x100), ctypes.c_uint(0x800)
    if _statx is None or _statx(at, os.fsencode(path), flags, mask, found) < 0:
        return 0
    if not int.from_bytes(found.raw[0:4], sys.byteorder) & 0x800:  # STATX_BTIME
        return 0
    seconds = int.from_bytes(found.raw[80:88], sys.byteorder, signed=True)
    return seconds * 10**9 + int.from_bytes(found.raw[88:92], sys.byteorder)


def hide_from_ptrace() -> None:
    """Close ``/proc/PID/{fd,exe,environ,mem}`` of this process to whom it shares a namespace with."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    result = _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero)
    _checked(result, f"prctl {option}")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityWord(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def limit_capabilities(keep: frozenset[int]) -> None:
    """Drop every capability but ``keep`` from the bounding set, and all from the inheritable set.

    What is permitted and effective follows at the next exec: root gets the bounding set, others
    nothing (capabilities(7)).
    """
    for capability in range(_CAPABILITIES):
        if capability not in keep:
            try:
                _prctl(_PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    break  # beyond the last one that this kernel knows
                raise
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    words = (_CapabilityWord * 2)()
    _checked(_libc.capget(ctypes.byref(header), words), "capget")
    for word in words:
        word.inheritable = 0
    _checked(_libc.capset(ctypes.byref(header), words), "capset")


def keep_all_capabilities() -> None:
    """Let every capability that this process has survive setresuid; see `raise_all_capabilities`."""
    _prctl(_PR_SET_KEEPCAPS, 1)


def raise_all_capabilities() -> None:
    """Make every permitted capability effective, inheritable and ambient: an exec keeps them all."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    words = (_CapabilityWord * 2)()
    _checked(_libc.capget(ctypes.byref(header), words), "capget")
    for word in words:
        word.effective = word.inheritable = word.permitted
    _checked(_libc.capset(ctypes.byref(header), words), "capset")
    zero = ctypes.c_ulong(0)
    for capability in range(_CAPABILITIES):
        if words[capability // 32].permitted >> capability % 32 & 1:
            number, which = ctypes.c_ulong(_PR_CAP_AMBIENT_RAISE), ctypes.c_ulong(capability)
            result = _libc.prctl(ctypes.c_int(_PR_CAP_AMBIENT), number, which, zero, zero)
            _checked(result, "ambient capabilities")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def filter_system_calls(program: bytes) -> None:
    """Put this process, and what it becomes and starts, under a seccomp filter (struct sock_filter…).

    Needs CAP_SYS_ADMIN, and so no no_new_privs: setuid programs go on to work. Speculation stays as it
    is (SECCOMP_FILTER_FLAG_SPEC_ALLOW), as docker and the kernel's default have it.
    """
    number = ctypes.c_long(_SYS_SECCOMP[os.uname().machine])
    lines = _Program(len(program) // 8, program)
    mode, flags = ctypes.c_uint(1), ctypes.c_uint(4)  # SECCOMP_SET_MODE_FILTER, …_SPEC_ALLOW
    _checked(int(_libc.syscall(number, mode, flags, ctypes.byref(lines))), "seccomp")


class _Limit(ctypes.Structure):
    _fields_ = (("soft", ctypes.c_uint64), ("hard", ctypes.c_uint64))


def set_limit(resource: int, soft: int, hard: int) -> None:
    """setrlimit(2); -1 is no limit."""
    infinite = 2**64 - 1
    limit = _Limit(infinite if soft < 0 else soft, infinite if hard < 0 else hard)
    result = _libc.prlimit64(ctypes.c_int(0), ctypes.c_int(resource), ctypes.byref(limit), None)
    _checked(result, f"limit {resource}")


def bind_mapped(source: bytes, target: bytes, user_namespace: int) -> None:
    """Show ``source`` at ``target`` with owners as ``user_namespace`` maps them (Linux 5.12).

    OSError EINVAL where the file system cannot be shown so.
    """
    at = ctypes.c_int(_AT_FDCWD)
    clone = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC | AT_RECURSIVE)
    tree = _checked(int(_libc.syscall(ctypes.c_long(_SYS_OPEN_TREE), at, source, clone)), source)
    try:
        handle = ctypes.c_int(tree)
        change = _MountAttributes(_MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
        size, empty = ctypes.c_size_t(ctypes.sizeof(change)), ctypes.c_uint(_AT_EMPTY_PATH)
        number = ctypes.c_long(_SYS_MOUNT_SETATTR)
        result = _libc.syscall(number, handle, b"", empty, ctypes.byref(change), size)
        _checked(int(result), source)
        number, flags = ctypes.c_long(_SYS_MOVE_MOUNT), ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
        _checked(int(_libc.syscall(number, handle, b"", at, target, flags)), target)
    finally:
        os.close(tree)


def default_signals() -> None:
    """Every signal back to its default and none blocked: Python ignores SIGPIPE, nohup SIGHUP.

    An ignored signal would stay ignored across exec. The numbers that may not be set are passed over.
    """
    default = ctypes.c_void_p(0)
    for number in range(1, _SIGNALS + 1):
        _libc.signal(ctypes.c_int(number), default)
    none = (ctypes.c_ulong * 16)()
    _libc.sigprocmask(ctypes.c_int(2), none, None)  # SIG_SETMASK


def raise_loopback() -> None:
    """Bring ``lo`` up in this network namespace; the kernel then gives it 127.0.0.1 and ::1."""
    handle = _checked(_libc.socket(2, 2, 0), "socket")  # AF_INET, SOCK_DGRAM
    try:
        # struct ifreq: a name of 16 bytes, then the flags IFF_UP | IFF_RUNNING (SIOCSIFFLAGS)
        request = ctypes.create_string_buffer(b"lo".ljust(16, b"\0") + b"\x41\0", 40)
        _checked(_libc.ioctl(handle, ctypes.c_ulong(0x8914), request), "lo")
    finally:
        os.close(handle)
