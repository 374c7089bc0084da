"""A network of one's own: loopback and nothing else.

In it a registry has the same address in every run and on every day, so that what a tool cached once can be used
again, and links side by side share no port with each other nor with the rest of the machine.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

#: Where the near end of the link is in a network of its own.
PORT = 5000

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_libc = ctypes.CDLL(None, use_errno=True)


def enter_own_network() -> bool:
    """Give the calling thread, and what it starts from now on, a network namespace whose loopback is up.

    False where that is not permitted: nothing has changed then.
    """
    if _libc.unshare(_CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    return True
