"""Which files below a directory somebody reads, in this process or another: asked of the kernel (inotify(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_ACCESS = 0x1
_IN_ISDIR = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def reads_of(directory: Path) -> Iterator[set[str]]:
    """The paths (below ``directory``) of files that were read in the block; filled when it ends."""
    found: set[str] = set()
    descriptor = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    try:
        watched = {}
        for place, _, _ in os.walk(directory):
            watch = _LIBC.inotify_add_watch(descriptor, os.fsencode(place), _IN_ACCESS)
            if watch < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", place)
            watched[watch] = place
        yield found
        for watch, mask, name in _events(descriptor):
            if not mask & _IN_ISDIR:
                found.add(os.path.relpath(f"{watched[watch]}/{name}", directory))
    finally:
        os.close(descriptor)


def _events(descriptor: int) -> Iterator[tuple[int, int, str]]:
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return
        while data:
            watch, mask, _, length = struct.unpack_from("iIII", data)
            yield watch, mask, os.fsdecode(data[16 : 16 + length].rstrip(b"\0"))
            data = data[16 + length :]
