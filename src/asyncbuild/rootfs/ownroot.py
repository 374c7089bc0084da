"""``/`` itself as the root of a build: whether it may be, what of it is safe, and emptying it.

Everything here is for a container that exists for one build. Three walls stand before a real machine:

1. `check_expendable` refuses where this is not a container. What the first process sees as its root is
   never taken, whatever else says that this is a container; where the namespaces are the machine's own,
   neither is anything that does not call itself a container by one of the usual marks. `empty` asks it.
2. `empty` removes nothing that is protected, or above something protected. Mounts are, each of them: the
   kernel lists them, and without that list nothing is removed.
3. It goes down by descriptors and never follows a link, so no other process can lead it elsewhere.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from asyncbuild.errors import IsolationError

MARKS = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io", "/kaniko")
"""What docker, podman, Kubernetes and kaniko's image leave in a container."""
_FIRST_NAMESPACES = {"pid": 0xEFFF_FFFC, "uts": 0xEFFF_FFFE, "ipc": 0xEFFF_FFFF}
"""The inode numbers of the machine's own namespaces (``linux/proc_ns.h``)."""
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What tells a container from a machine. ``is_first_root``: this root is the first process's, in the
    machine's own pid namespace. ``own_namespaces``: one of pid, uts and ipc is not the machine's.
    """

    is_first_root: bool
    own_namespaces: bool
    marks: tuple[str, ...] = ()

    @classmethod
    def look(cls) -> Surroundings:
        """Those of this process. What cannot be read counts as a machine's."""
        numbers = {name: _namespace(name) for name in _FIRST_NAMESPACES}
        own = {name: numbers[name] not in (0, first) for name, first in _FIRST_NAMESPACES.items()}
        return cls(
            is_first_root=not own["pid"] and _same_as_first_root(),
            own_namespaces=any(own.values()),
            marks=tuple(mark for mark in MARKS if os.path.exists(mark)),
        )

    def objection(self) -> str:
        """Why ``/`` must not be built in here; empty if it may be."""
        if self.is_first_root:
            return "it is the root of this machine's first process"
        if not self.own_namespaces and not self.marks:
            return "this looks like a machine, not like a container"
        return ""


def check_expendable(surroundings: Surroundings) -> None:
    """Raise `IsolationError` unless ``/`` is the root of a container."""
    objection = surroundings.objection()
    if objection:
        raise IsolationError(
            f"an in-place build would replace everything in /, and {objection}",
            hint="--isolation inplace is for a container that is thrown away after the build",
        )


def mount_points(listing: str | None = None) -> tuple[str, ...]:
    """Every mount point but ``/``, from ``listing`` (``/proc/self/mountinfo``, proc(5)).

    Raises `IsolationError` if it cannot be read.
    """
    if listing is None:
        try:
            listing = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError as error:
            raise IsolationError(f"what is mounted cannot be known: {error}") from error
    found = dict.fromkeys(_unescaped(line.split(" ")[4]) for line in listing.splitlines())
    return tuple(path for path in found if path != "/")


def empty(
    protected: Iterable[str], top: str = "/", on_entry: Callable[[], None] = lambda: None
) -> None:
    """Remove everything below ``top`` but mounts, the ``protected`` paths (absolute, as seen from ``top``),
    what is in them, and the directories that lead to them.

    A protected path is taken word by word: links in it do not count. Blocks; ``on_entry`` is called again
    and again, and may raise. Raises `IsolationError` for what must not or cannot be removed.
    """
    place = os.path.realpath(top)
    if os.path.samefile(place, "/"):
        check_expendable(Surroundings.look())
    mounts = [os.path.relpath(path, place) for path in mount_points()]
    wanted = [path.strip("/") for path in map(os.path.normpath, protected)]
    kept = tuple(path for path in (*wanted, *mounts) if path and not path.startswith(".."))
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _empty(root, "", kept, os.fstat(root).st_dev, on_entry)
    except OSError as error:
        raise IsolationError(f"/ cannot be emptied: {error.strerror}: {error.filename}") from error
    finally:
        os.close(root)


def _empty(
    handle: int, path: str, kept: tuple[str, ...], device: int, on_entry: Callable[[], None]
) -> bool:
    """Empty an open directory; whether nothing is left in it."""
    is_empty = True
    with os.scandir(handle) as listing:
        names = [entry.name for entry in listing]
    for name in names:
        on_entry()
        below = f"{path}/{name}" if path else name
        if below in kept:
            is_empty = False
            continue
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):  # on an overlay its device says nothing
            os.unlink(name, dir_fd=handle)
        elif status.st_dev != device:
            is_empty = False
        else:
            is_empty &= _remove_directory(handle, name, (below, kept, device, on_entry))
    return is_empty


def _remove_directory(
    parent: int, name: str, rest: tuple[str, tuple[str, ...], int, Callable[[], None]]
) -> bool:
    below, kept, device, on_entry = rest
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=parent)
    try:
        if os.fstat(handle).st_dev != device:  # it was replaced since it was looked at
            return False
        nothing_left = _empty(handle, below, kept, device, on_entry)
    finally:
        os.close(handle)
    if nothing_left:
        os.rmdir(name, dir_fd=parent)
    return nothing_left


def _namespace(name: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{name}").st_ino
    except OSError:
        return 0


def _same_as_first_root() -> bool:
    """Whether ``/`` is what process 1 has as its root; true also if that cannot be known."""
    try:
        first, own = os.stat("/proc/1/root/"), os.stat("/")
    except OSError:
        return True
    return (first.st_dev, first.st_ino) == (own.st_dev, own.st_ino)


def _unescaped(text: str) -> str:
    """A path as mountinfo writes it: octal for space, tab, line end and backslash."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
