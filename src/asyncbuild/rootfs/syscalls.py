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

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2

SIGKILL = 9
"""Here and not from the signal module, whose import (enum) takes longer than ours together."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x2008_0522
_SYS_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10
_SIGNALS = 64
_CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, what: str | bytes) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` (CLONE_NEW…) name for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(
    source: bytes, target: bytes, kind: bytes = b"", flags: int = 0, options: bytes = b""
) -> None:
    """Mount; ``options`` must fit a page (4,096 bytes), or the kernel's answer misleads."""
    kind_or_none, options_or_none = kind or None, options or None
    result = _libc.mount(source, target, kind_or_none, ctypes.c_ulong(flags), options_or_none)
    _checked(result, target)


def bind(source: bytes, target: bytes, flags: int) -> None:
    """Show ``source`` at ``target``, with the mount flags given (a bind takes them only afterwards)."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if flags:
        mount(b"", target, flags=MS_REMOUNT | MS_BIND | flags)


def unmount(target: bytes, flags: int = 0) -> None:
    """umount2(2)."""
    _checked(_libc.umount2(target, ctypes.c_int(flags)), target)


def pivot_root(new: bytes, old: bytes) -> None:
    """Make the mount ``new`` the root of this mount namespace; the former root lands at ``old``."""
    _checked(_libc.pivot_root(new, old), new)


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
