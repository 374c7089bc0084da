"""Becoming root of a user namespace: what an ordinary user needs for layers with owners, and for RUN.

See user_namespaces(7). This very process enters, while it has one thread: 0.2 ms, or 6 ms where newuidmap
and newgidmap map further ids; starting the program anew inside would cost its whole start. From then on
root is this user; with further ids there are as many other users, whose files belong to subordinate ids of
this user on disk. What is started from here is inside too, and a mount namespace comes with it: nothing
that is mounted is ever seen outside.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from asyncbuild.rootfs import syscalls
from asyncbuild.rootfs.subordinates import IdRange, Subordinates

_MAPS = ("/proc/self/uid_map", "/proc/self/gid_map")


def maps_one_id(maps: Iterable[str] = _MAPS) -> bool:
    """Whether this process's user namespace has no other owner than root."""
    return any(_count(Path(path)) == 1 for path in maps)


def maps_owner(user: int, group: int, maps: Iterable[str] = _MAPS) -> bool:
    """Whether this process's user namespace has both: else nothing can be given to them."""
    wanted = zip((user, group), maps, strict=True)
    return all(_has(Path(path), number) for number, path in wanted)


def _count(path: Path) -> int:
    return sum(count for _, count in _ranges(path))


def _has(path: Path, number: int) -> bool:
    """Where /proc says nothing the system's own answer will do."""
    ranges = _ranges(path)
    return not ranges or any(first <= number < first + count for first, count in ranges)


def _ranges(path: Path) -> list[tuple[int, int]]:
    """The ids inside: the first of each range, and how many there are."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
    return [(int(first), int(count)) for first, _, count in lines]


def enter(ids: Subordinates) -> bool:
    """Enter a new user namespace, and a mount namespace with it, as its root; whether ``ids`` are mapped.

    Only the own id is where there are none, or where the programs that map them refuse. Raises OSError
    if there can be no namespace; this process is as it was then. It must have a single thread.
    """
    user, group = os.geteuid(), os.getegid()
    _try_in_child()
    go, going = os.pipe()
    mapper = os.fork() if ids else 0
    if ids and mapper == 0:
        os.close(going)
        _map_parent(ids, (user, group), go)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        os.write(going, b"x")
    finally:
        os.close(going)
        os.close(go)
        mapped = ids and os.waitstatus_to_exitcode(os.waitpid(mapper, 0)[1]) == 0
    if not mapped:
        _map_own(user, group)
    return bool(mapped)


def _try_in_child() -> None:
    """A namespace cannot be left again: whether one can be entered and mapped, a child finds out."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        number = 0
        try:
            user, group = os.geteuid(), os.getegid()
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            _map_own(user, group)
        except OSError as error:
            number = error.errno or errno.EPERM
        finally:
            os.write(tell, b"%d" % number)
            os._exit(0)
    os.close(tell)
    try:
        number = int(os.read(told, 16) or errno.EPERM)
    finally:
        os.close(told)
        os.waitpid(child, 0)
    if number:
        raise OSError(number, os.strerror(number), "user namespace")


def _map_parent(ids: Subordinates, own: tuple[int, int], go: int) -> None:
    """In a child, outside: map the parent's ids as soon as it is inside. Never returns."""
    code = 1
    try:
        os.read(go, 1)
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silent, stream)
        parent = str(os.getppid())
        user, group = (_words(*pair) for pair in zip(own, (ids.users, ids.groups), strict=True))
        for program, words in ((ids.newuidmap, user), (ids.newgidmap, group)):
            code = os.spawnv(os.P_WAIT, program, [program, parent, *words])  # noqa: S606
            if code:
                break
    finally:
        os._exit(1 if code else 0)


def _words(own: int, ranges: Iterable[IdRange]) -> list[str]:
    """Root is this user; the next numbers are the subordinate ones, in their order."""
    words, inside = ["0", str(own), "1"], 1
    for item in ranges:
        words += [str(inside), str(item.first), str(item.count)]
        inside += item.count
    return words


def _map_own(user: int, group: int) -> None:
    """Map one id each, where nothing is mapped yet: root is this user."""
    for name, number in (("uid_map", user), ("gid_map", group)):
        path = Path("/proc/self", name)
        if not path.read_text():
            if name == "gid_map":  # the kernel wants it so
                Path("/proc/self/setgroups").write_text("deny")
            path.write_text(f"0 {number} 1")
