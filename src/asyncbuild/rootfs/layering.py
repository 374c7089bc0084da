"""How layers are shown as one: by the kernel's overlayfs, or by fuse-overlayfs where that is refused.

Runs in the sandbox's own process, like `asyncbuild.rootfs.overlay`. A kernel before 5.11 lets no user
namespace mount an overlay; a process that serves one through /dev/fuse needs no more than that device.
Differences of fuse-overlayfs (1.10):

- its marks are its own: see `translate`;
- a name that begins with ``.wh.`` cannot be made;
- the set-id bits of what it copies up are lost.

Everything here must start fast; see `asyncbuild.rootfs.init`.
"""

from __future__ import annotations

import os
import stat
import time

from asyncbuild.rootfs import syscalls

_PLACES = ("/usr/local/bin", "/usr/bin", "/bin")
_NAME = "fuse-overlayfs"
_PLAIN = b",redirect_dir=off,metacopy=off,index=off,volatile"
_PLAIN_FOR_USERS = b",userxattr,index=off,volatile"  # which is without the other two by itself
_SERVED = b",writeback=0,suid,allow_other"
"""Data is with the layers when write(2) returns; users other than root are served."""
_PATIENCE = 10.0
"""Seconds for the program to serve."""
_TICK = 0.001
_PREFIX = ".wh."
_OPAQUE_FILES = (".wh..wh..opq", ".wh..opq")
_OPAQUE = "user.fuseoverlayfs.opaque"
_MARKS = ("user.fuseoverlayfs.", "user.overlay.")


def find_program() -> bytes:
    """The path of fuse-overlayfs; empty if it is not there."""
    for place in _PLACES:
        path = os.path.join(place, _NAME)
        if os.access(path, os.X_OK):
            return os.fsencode(path)
    return b""


class Layering:
    """One way to show layers. ``user_marks``: in a user namespace, see `asyncbuild.layers.marks`.
    ``program``: the path of fuse-overlayfs; empty for the kernel's own.
    """

    def __init__(self, *, user_marks: bool = False, program: bytes = b"") -> None:
        self._user_marks = user_marks
        self._program = program

    def show(
        self,
        lowers: list[bytes],
        target: bytes,
        flags: int,
        writes: tuple[bytes, bytes] | None = None,
    ) -> None:
        """Show ``lowers``, topmost first, at the directory ``target``; all paths are short.

        ``writes`` are an upper directory and a work directory: what is written goes into the first, which
        stays plain (no redirects, no file without its data), and fsync costs nothing: it is kept only if
        its RUN came to its end.
        """
        options = b"lowerdir=" + b":".join(lowers)
        if writes is not None:
            options += b",upperdir=%b,workdir=%b" % writes
        if self._program:
            read_only = b",ro" if flags & syscalls.MS_RDONLY else b""
            self._serve(target, options + _SERVED + read_only)
            return
        if writes is not None:
            options += _PLAIN_FOR_USERS if self._user_marks else _PLAIN
        elif self._user_marks:
            options += b",userxattr"
        syscalls.mount(b"overlay", target, b"overlay", flags, options)

    def _serve(self, target: bytes, options: bytes) -> None:
        """Start the program, which ends with this process, and wait until it serves."""
        before = os.stat(target).st_dev
        errors = os.memfd_create("fuse-overlayfs")
        server = os.fork()
        if server == 0:
            try:
                syscalls.die_with_parent()
                null = os.open(os.devnull, os.O_RDWR)
                for stream, source in enumerate((null, null, errors)):
                    os.dup2(source, stream)
                os.execv(self._program, [self._program, b"-f", b"-o", options, target])  # noqa: S606
            finally:
                os._exit(127)
        try:
            deadline = time.monotonic() + _PATIENCE
            while os.stat(target).st_dev == before:
                if os.waitpid(server, os.WNOHANG)[0] or time.monotonic() > deadline:
                    raise OSError(0, _complaint(errors), self._program)
                time.sleep(_TICK)
        finally:
            os.close(errors)


def _complaint(errors: int) -> str:
    """The first line that the program wrote, but for what it says of options that it does not know."""
    lines = os.pread(errors, 4096, 0).decode("utf-8", "replace").splitlines()
    said = [line for line in lines if not line.startswith("unknown argument")]
    return said[0] if said else "it does not serve"


def translate(upper: str) -> None:
    """Give an upper directory that fuse-overlayfs wrote overlayfs's own marks, in place of its.

    A whiteout may be a file ``.wh.NAME``; an opaque directory has an attribute and files of its own; where
    a file was copied from is told by an attribute. Marks of overlayfs that a command has set are none.
    """
    from asyncbuild.layers import marks  # noqa: PLC0415 - takes longer to import than most RUNs need

    status = os.lstat(upper)
    opaque = _OPAQUE in os.listxattr(upper)
    _strip(upper)
    directory = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for entry in list(os.scandir(upper)):
            if entry.name in _OPAQUE_FILES:
                opaque = True
                os.unlink(entry.path)
            elif entry.name.startswith(_PREFIX):
                os.unlink(entry.path)
                marks.make_whiteout(entry.name[len(_PREFIX) :], directory)
            elif entry.is_dir(follow_symlinks=False):
                translate(entry.path)
            elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                _strip(entry.path)
        if opaque:
            marks.make_opaque(directory)
    finally:
        os.close(directory)
    os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))


def _strip(path: str) -> None:
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(_MARKS):
            os.removexattr(path, name, follow_symlinks=False)
