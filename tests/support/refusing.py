"""A kernel that mounts no file system of one type: a program that runs another under it.

``python refusing.py TYPE PROGRAM ARGUMENTS…``. Every mount(2) below it stops in a filter of system calls, which
asks this process (seccomp_unotify(2)): EPERM for the type, as a kernel before 5.11 answers a user namespace that
asks for an overlay; all others go on. The filter is set by root, so set-user-id programs go on to work.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import sys

_SECCOMP, _MOUNT = {"x86_64": (317, 165), "aarch64": (277, 40)}[platform.machine()]
_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_TYPE = 2
"""Which argument of mount(2) is the type."""


def main() -> int:
    """The program; its exit code is that of what it runs, 128 + n for signal n."""
    refused, *words = sys.argv[1:]
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        rights = array.array("i", [_listener()])
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.execvp(words[0], words)
    _, rights_of, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    (listener,) = struct.unpack("i", rights_of[0][2])
    _answer(listener, os.pidfd_open(child), refused.encode())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _listener() -> int:
    """Put this process under the filter; the descriptor that tells of mounts."""
    program = b"".join(
        struct.pack("=HBBI", *line)
        for line in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, _MOUNT),
            (6, 0, 0, 0x7FC0_0000),
            (6, 0, 0, 0x7FFF_0000),
        )
    )
    lines = ctypes.create_string_buffer(program)
    filter_of = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.syscall(_SECCOMP, _MODE_FILTER, _NEW_LISTENER, filter_of)
    if handle < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(handle)


def _answer(listener: int, child: int, refused: bytes) -> None:
    """Answer until the child, and so everything of it that mounts, has ended."""
    events = select.poll()
    events.register(listener, select.POLLIN)
    events.register(child, select.POLLIN)
    while child not in (ready := {handle for handle, _ in events.poll()}):
        if listener not in ready:
            continue
        asked = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, asked)
            (
                number,
                pid,
                *_,
            ) = _NOTIFICATION.unpack(asked)
            address = _NOTIFICATION.unpack(asked)[6 + _TYPE]
            code = -errno.EPERM if _text(pid, address) == refused else 0
            flags = 0 if code else _CONTINUE
            fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(number, 0, code, flags)))
        except OSError as error:
            if error.errno != errno.ENOENT:  # whoever asked is gone
                raise


def _text(pid: int, address: int) -> bytes:
    """A string in the memory of a process."""
    if not address:
        return b""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(64).split(b"\0")[0]


if __name__ == "__main__":
    sys.exit(main())
