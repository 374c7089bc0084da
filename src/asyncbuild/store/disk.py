"""The few dealings with the disk that the store's modules share: errors, atomic files, syncfs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncbuild.errors import StoreError

_ELSEWHERE = "choose another place with --store DIR"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


def store_error(error: OSError, root: Path) -> StoreError:
    """What ``error`` means to a person whose store is at ``root``."""
    name = error.filename
    where = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else str(root)
    if error.errno in _FULL:
        return StoreError(
            f"the disk that holds the store {root} is full",
            hint=f"free space there, or {_ELSEWHERE}",
        )
    if error.errno == errno.EROFS:
        return StoreError(f"the store {root} is on a read-only file system", hint=_ELSEWHERE)
    if error.errno in _FORBIDDEN:
        return StoreError(
            f"not permitted to use {where}",
            hint=f"the store {root} must belong to user {os.geteuid()}, or {_ELSEWHERE}",
        )
    return StoreError(f"the store {root} cannot be used: {error.strerror or error} ({where})")


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Raise what goes wrong inside with the disk as a `StoreError`."""
    try:
        yield
    except OSError as error:
        raise store_error(error, root) from error


def write_atomically(path: Path, data: bytes, temporary: Path) -> None:
    """Let ``path`` appear with all of ``data``; ``temporary`` is on the same file system."""
    temporary.write_bytes(data)
    temporary.rename(path)


def sync_file_system(path: Path) -> None:
    """Wait until everything written to the file system of ``path`` is on the disk (syncfs(2))."""
    import ctypes  # noqa: PLC0415  (not needed by builds that commit nothing)

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def boot_id() -> str:
    """The kernel's name of this boot; without /proc a name that no journal has."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"unknown-{os.urandom(8).hex()}"
