"""The attributes of a name that stands in a directory already: owner, mode, extended attributes and time.

Ownership drops set-user-id bits and capabilities, so it comes first; times come last.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from asyncbuild.layers.changeset import Entry
from asyncbuild.layers.records import mode_on_disk, record_anew, records
from asyncbuild.layers.xattrs import set_xattrs


def dress_open(descriptor: int, entry: Entry) -> None:
    """Give an open file or directory the attributes of ``entry``."""
    if records():
        record_anew(descriptor, entry)
    else:
        os.fchown(descriptor, entry.uid, entry.gid)
    os.fchmod(descriptor, mode_on_disk(entry))
    set_xattrs(descriptor, entry.xattrs)
    os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))


def dress(directory: int, name: str, entry: Entry) -> None:
    """Give what stands at ``name``, if anything does, what ``entry`` says; a symlink its owner alone."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=directory)
        try:
            dress_open(descriptor, entry)
        finally:
            os.close(descriptor)
        return
    if not records():
        os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, mode_on_disk(entry), dir_fd=directory)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def umask() -> int:
    """This process's mask, read without changing it even for a moment; all bits if no one tells."""
    with suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o777
