"""Real overlay mounts for tests, in a mount namespace that nothing outlives; and trees as facts."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

Result = TypeVar("Result")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 0x1000, 0x4000, 1 << 18


class Fact(NamedTuple):
    """Everything about one name that a reader can see; the kind is tar's type flag."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    link: str
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]


def with_private_mounts(work: Callable[[], Result]) -> Result:
    """Run ``work`` in a thread with a mount namespace of its own, and give what it gives."""
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            _check(_libc.unshare(_CLONE_NEWNS))
            _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def mounted_facts(lower: Sequence[Path], target: Path) -> dict[str, Fact]:
    """Mount ``lower`` (topmost first) on ``target`` and read the whole merged tree."""

    def work() -> dict[str, Fact]:
        mount_overlay(lower, target)
        try:
            return directory_facts(target)
        finally:
            unmount(target)

    return with_private_mounts(work)


def mount_overlay(lower: Sequence[Path], target: Path) -> None:
    """A read-only overlay; an empty directory is laid below, for the kernel wants two."""
    empty = target.with_name(f"{target.name}.empty")
    empty.mkdir(exist_ok=True)
    target.mkdir(exist_ok=True)
    options = "lowerdir=" + ":".join(map(str, [*lower, empty]))
    _check(
        _libc.mount(b"overlay", os.fsencode(target), b"overlay", _MS_RDONLY, os.fsencode(options))
    )


def mount_tmpfs(target: Path, options: str, *, readonly: bool = False) -> None:
    """A small file system of its own on ``target``."""
    flags = _MS_RDONLY if readonly else 0
    _check(_libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", flags, options.encode()))


def mount_bind(source: Path, target: Path) -> None:
    """``source`` once more, at ``target``."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None))


def unmount(target: Path) -> None:
    """Take away what is mounted on ``target``."""
    _check(_libc.umount2(os.fsencode(target), 0))


def exchange(one: Path, other: Path) -> None:
    """Let two names change places at once (renameat2, RENAME_EXCHANGE)."""
    at_cwd, exchange_flag = -100, 2
    _check(_libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange_flag))


def as_nobody(work: Callable[[], Result]) -> Result:
    """Run ``work`` in a thread that touches files as user 65534, without root's rights."""

    def body() -> Result:
        _libc.setfsuid(65534)
        return work()

    return with_private_mounts(body)


def directory_facts(root: Path) -> dict[str, Fact]:
    """The facts of everything below ``root``, the root itself (``""``) too.

    An overlay lists a lower directory that merges with nothing as it stands: whiteouts in it (of
    nothing) are listed, and are not there.
    """
    found = {"": _fact(root)}
    for where, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(where, name)
            if os.path.lexists(path):
                found[str(path.relative_to(root))] = _fact(path)
    return found


def _fact(path: Path) -> Fact:
    status = path.lstat()
    names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in names
        if not name.startswith("trusted.overlay.")
    )
    kind = {
        stat.S_IFREG: "0",
        stat.S_IFLNK: "2",
        stat.S_IFCHR: "3",
        stat.S_IFBLK: "4",
        stat.S_IFDIR: "5",
        stat.S_IFIFO: "6",
    }[stat.S_IFMT(status.st_mode)]
    return Fact(
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        os.readlink(path) if kind == "2" else "",
        path.read_bytes() if kind == "0" else b"",
        xattrs,
    )


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
