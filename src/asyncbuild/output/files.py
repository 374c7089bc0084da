"""Writing files that appear whole or not at all: a temporary name beside the place, then a rename.

Whoever writes a temporary file holds a lock (flock) on it, which the kernel drops however its process
ends: the next to write to the same place removes what a killed build left half written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from asyncbuild.errors import InputError, StoreError

CheckCancelled = Callable[[], None]
"""Called between chunks; raises what shall end the work."""

_KERNEL_CHUNK = 32 << 20
_CHUNK = 1 << 20
_PARTIAL = ".partial"
_NO_KERNEL_COPY = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
)


def never_cancelled() -> None:
    """The `CheckCancelled` of a caller that is never cancelled."""


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an OSError into the project's errors; ``what`` names the output ("dest=out.tar")."""
    try:
        yield
    except OSError as error:
        _raise_for(what, error)


def _raise_for(what: str, error: OSError) -> NoReturn:
    reason = os.strerror(error.errno) if error.errno else str(error)
    message = f"cannot write {what}: {reason}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            hint = "the directory that holds it must exist"
            raise InputError(message, hint=hint) from error
        case errno.ENOSPC | errno.EDQUOT:
            hint = "free space there, or choose another dest="
        case errno.EACCES | errno.EPERM | errno.EROFS:
            hint = "choose a dest= that this user may write"
        case errno.EPIPE:
            hint = "the program that reads the standard output ended early"
        case _:
            hint = "see the file system's own messages"
    raise StoreError(message, hint=hint) from error


def write_all(target: int, data: bytes | memoryview) -> None:
    """Write ``data`` to a descriptor, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def copy_bytes(source: int, target: int, size: int, check: CheckCancelled) -> None:
    """Copy ``size`` bytes from one descriptor's position to the other's.

    The kernel copies where it can (and shares the blocks on btrfs and XFS). Raises OSError, and
    `StoreError` when the source ends early.
    """
    left, kernel = size, True
    while left:
        check()
        try:
            if kernel:
                moved = os.copy_file_range(source, target, min(left, _KERNEL_CHUNK))
            else:
                data = os.read(source, min(left, _CHUNK))
                write_all(target, data)
                moved = len(data)
        except OSError as error:
            if not kernel or error.errno not in _NO_KERNEL_COPY:
                raise
            kernel = False
            continue
        if not moved and kernel:  # some special file systems answer 0 where read() gives bytes
            kernel = False
        elif not moved:
            raise StoreError(f"a blob of the store ended {left} bytes too early")
        left -= moved


@contextlib.contextmanager
def open_blob(path: Path, size: int) -> Iterator[int]:
    """Open a blob for reading; `StoreError` if it is not there or has another size."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot read blob {path.name}: {error.strerror}") from error
    try:
        found = os.fstat(source).st_size
        if found != size:
            raise StoreError(
                f"blob {path.name} has {found} bytes and its manifest says {size}",
                hint="the store is damaged; build again with another --store",
            )
        yield source
    finally:
        os.close(source)


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[int]:
    """A descriptor to write to; ``path`` gets the bytes when the block ends without an error.

    An existing device, pipe or socket (``/dev/null``, ``/dev/stdout``) is written to directly.
    """
    if _is_special(path):
        target = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield target
        finally:
            os.close(target)
        return
    place = Path(os.path.realpath(path))  # a link is followed: the file that it names is replaced
    sweep_partials(place.parent, f"{_hidden(place)}.")
    temporary, target = _locked_partial(place)
    try:
        yield target
        os.rename(temporary, place)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(target)


def sweep_partials(directory: Path, prefix: str = ".") -> None:
    """Remove the temporary files in ``directory`` whose writers have ended, if their names begin so."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(_PARTIAL):
                with contextlib.suppress(OSError):
                    _remove_if_dead(entry.path)


def _remove_if_dead(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(descriptor)


def _locked_partial(place: Path) -> tuple[Path, int]:
    """A new file beside ``place``, and a descriptor that holds its lock."""
    while True:
        temporary = place.parent / f"{_hidden(place)}.{os.urandom(8).hex()}{_PARTIAL}"
        target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks: then nobody sweeps either
            fcntl.flock(target, fcntl.LOCK_EX)
        if os.fstat(target).st_nlink:
            return temporary, target
        os.close(target)  # swept away before it was locked


def _hidden(place: Path) -> str:
    return f".{place.name[:180]}"


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(mode)
