"""The root of a RUN: an overlay mount, and the stub layer that holds the mount points it lacks.

Runs in the sandbox's own process, in a mount namespace of its own (see `asyncbuild.rootfs.init`), with
the *stage* as its working directory: a small tmpfs that nothing outside sees. Overlay options name the
layers by short symbolic links in the stage (``lowerdir=0:1:2``), so that neither the page that mount(2)
grants them, nor a colon or comma in a path, nor a path's length is ever a limit, and so that a RUN
cannot read this machine's paths from its mount table.

A RUN needs ``/proc``, ``/etc/resolv.conf`` and others to mount upon, and its upper directory must hold
nothing but what the command does. So the mount points that the image lacks stand in a lower layer of
their own, on top of the image's: the stub. A directory of the stub merges with the image's directory
of that name and shows its own attributes, therefore it gets a copy of those that the image's has: the
command may cause it to be copied up. What the image has at a mount point, but of another kind (a
symbolic link ``/etc/resolv.conf``), the stub covers, and it is there again afterwards, untouched.

The stub stands beside the upper directory and not in the stage: overlayfs keeps inode and device
numbers as they are (through a copy-up, and alike for files and directories) only while all its layers
are on one file system.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from asyncbuild.rootfs import syscalls
from asyncbuild.rootfs.layering import Layering

MAX_LOWER_DIRECTORIES = 499
"""overlayfs takes 500 (OVL_MAX_STACK); one is for the stub."""

_MOST_LINKS = 40
"""As many as the kernel follows (MAXSYMLINKS)."""

ROOT = b"root"
"""Where the root is mounted, in the stage."""


def open_stage(work: bytes) -> None:
    """Mount the stage below ``work`` (an empty directory) and make it the working directory."""
    for name in (b"stage", b"stub", b"overlay"):
        os.mkdir(os.path.join(work, name), 0o755)
    stage = os.path.join(work, b"stage")
    syscalls.mount(b"stage", stage, b"tmpfs", syscalls.MS_NOSUID, b"mode=0700,size=64m")
    os.chdir(stage)
    for name in (ROOT, b"probe", b"void"):
        os.mkdir(name, 0o755)


class Overlay:
    """The layers of a root, before it is mounted: what they show together, and the stub above them."""

    def __init__(
        self,
        lower_directories: list[bytes],
        upper: bytes,
        work: bytes,
        layering: Layering | None = None,
    ) -> None:
        self._layering = layering or Layering()
        self._upper = upper
        self._stub = os.path.join(work, b"stub")
        lowers = each_once(lower_directories)
        self._lower = [b"%d" % number for number in range(len(lowers))]
        self._stubbed: list[bytes] = []
        for name, path in zip(self._lower, lowers, strict=True):
            os.symlink(path, name)
        os.symlink(upper, b"u")
        os.symlink(os.path.join(work, b"overlay"), b"w")
        os.symlink(self._stub, b"s")
        self._probe = self._open_probe()
        self._probe_path = os.readlink(b"/proc/self/fd/%d" % self._probe)

    def _open_probe(self) -> int:
        """What the lower directories show together, by the kernel's own rules for whiteouts."""
        if not self._lower:
            seen = b"void"
        elif len(self._lower) == 1:  # overlayfs wants two where there is no upper directory
            seen = self._lower[0]
        else:
            seen = b"probe"
            self._layering.show(self._lower, seen, syscalls.MS_RDONLY)
        return os.open(seen, os.O_PATH | os.O_DIRECTORY)

    def place(self, target: bytes, *, directory: bool, follow: bool = False) -> bytes | None:
        """Make sure that there is a directory, or else a file, at ``target`` to mount upon.

        Answers the path to mount at: relative to the root, its parents free of links. None if the
        image has no place for it (a parent is a file, or a link to nowhere). A link at the target
        itself is covered. With ``follow`` links are followed as runc does: wherever they lead, there
        is the place, also if there is nothing yet.
        """
        if follow:
            path = self._follow(target)
            if not path:
                return None
        else:
            parent, name = os.path.split(target.strip(b"/"))
            found = self._nearest(parent)
            if found is None:
                return None
            path = os.path.join(found, name)
        kind = self._kind(path)
        if kind is None or not (stat.S_ISDIR if directory else stat.S_ISREG)(kind):
            self._add(path, directory=directory)
        return path

    def _follow(self, path: bytes) -> bytes | None:
        """Where ``path`` leads in the root, by the names alone; None if it passes through a file."""
        found: list[bytes] = []
        waiting = path.split(b"/")[::-1]
        links = 0
        while waiting:
            name = waiting.pop()
            if name == b"..":
                del found[-1:]
            elif name not in (b"", b"."):
                here = b"/".join([*found, name])
                kind = self._kind(here)
                if kind is not None and stat.S_ISLNK(kind):
                    links += 1
                    if links > _MOST_LINKS:
                        return None
                    target = os.readlink(here, dir_fd=self._probe)
                    waiting += target.split(b"/")[::-1]
                    found = [] if target.startswith(b"/") else found
                    continue
                if kind is not None and any(waiting) and not stat.S_ISDIR(kind):
                    return None
                found.append(name)
        return b"/".join(found)

    def _nearest(self, path: bytes) -> bytes | None:
        """``path`` with its links resolved inside the root; what is missing of it stays as it is."""
        missing: list[bytes] = []
        flags = os.O_PATH | os.O_DIRECTORY
        while True:
            try:
                handle = syscalls.open_in_root(self._probe, path or b".", flags)
                break
            except FileNotFoundError:
                path, name = os.path.split(path)
                missing.insert(0, name)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    return None
                raise
        try:
            real = os.readlink(b"/proc/self/fd/%d" % handle)
        finally:
            os.close(handle)
        real = real[len(self._probe_path) :].strip(b"/")
        if missing and self._kind(os.path.join(real, missing[0])) is not None:
            return None  # it is there and leads nowhere
        return os.path.join(real, *missing)

    def has(self, path: bytes) -> bool:
        """Whether the image has something at ``path``; before the root is mounted."""
        return self._kind(path) is not None

    def _kind(self, path: bytes) -> int | None:
        """The mode of what the image has at ``path``, links not followed; None for nothing."""
        try:
            return os.stat(path, dir_fd=self._probe, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _add(self, path: bytes, *, directory: bool) -> None:
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            self._add_directory(b"/".join(parts[:depth]))
        if directory:
            self._add_directory(path)
        else:
            flags = os.O_CREAT | os.O_WRONLY
            os.close(os.open(os.path.join(self._stub, path), flags, 0o644))

    def _add_directory(self, path: bytes) -> None:
        if path not in self._stubbed:
            os.mkdir(os.path.join(self._stub, path), 0o755)
            self._stubbed.append(path)

    def mount(self, flags: int = syscalls.MS_NODEV) -> None:
        """Mount the root, writable, at `ROOT`."""
        for path in reversed(self._stubbed):  # children first: adding one changes its parent's time
            kind = self._kind(path)
            if kind is not None and stat.S_ISDIR(kind):
                self._copy_attributes(path, os.path.join(self._stub, path))
        # The root directory alone shows the attributes of the upper directory.
        self._copy_attributes(b".", self._upper)
        os.close(self._probe)
        stub = [b"s"] if os.listdir(self._stub) or not self._lower else []
        self._layering.show(stub + self._lower, ROOT, flags, (b"u", b"w"))

    def _copy_attributes(self, path: bytes, target: bytes) -> None:
        copy_attributes(os.path.join(b"/proc/self/fd/%d" % self._probe, path), target)


def each_once(lowers: Iterable[bytes]) -> list[bytes]:
    """``lowers``, topmost first, without those that are there again further below, where nothing of them
    is seen: overlayfs refuses a directory that it has already. Layers of equal bytes are one directory.
    """
    return list(dict.fromkeys(lowers))


def copy_attributes(source: bytes, target: bytes) -> None:
    """Give the directory ``target`` owner, mode, extended attributes and times of ``source``."""
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
