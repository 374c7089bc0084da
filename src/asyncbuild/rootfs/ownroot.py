"""``/`` itself as the root of a build: whether it may be, emptying it, and unpacking an image over it.

Everything here is for a container that exists for one build. These walls stand before a real machine:

1. `check_expendable` refuses where this is not a container. What the first process sees as its root is
   never taken, nor is the root of the machine's first mount namespace, whatever else says that this is a
   container. Where nothing marks a container, or ``/`` is all of a disk, only who insists goes on.
2. `empty` asks it. It removes nothing that is reserved, or above something reserved. Mounts are, each of
   them: the kernel lists them, and without that list nothing is removed.
3. It goes down by descriptors and never follows a link, so no other process can lead it elsewhere.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from asyncbuild.errors import IsolationError, StoreError
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.records import dataclass
from asyncbuild.rootfs.plainroot import remove, set_attributes, write_entry
from asyncbuild.rootfs.reserved import Reserved, Unreserved
from asyncbuild.rootfs.view import DirectoryTree, View

HOME = "/.asyncbuild"
"""The program's own directory during a build in place."""
SAVED = f"{HOME}/before"
"""What the container held before, if it is to be put back: all of it."""
_SAVING = f"{HOME}/saving"

MARKS = (
    "/.dockerenv",
    "/run/.containerenv",
    "/run/secrets/kubernetes.io",
    "/var/run/secrets/kubernetes.io",
    "/kaniko",
)
"""What docker, podman, Kubernetes and kaniko's image leave in a container."""
_FIRST_NAMESPACES = {"pid": 0xEFFF_FFFC, "uts": 0xEFFF_FFFE, "ipc": 0xEFFF_FFFF}
"""The inode numbers of the machine's own namespaces (``linux/proc_ns.h``)."""
_FIRST_MOUNTS = (0xEFFF_FFF8, 0xF000_0000, 0xF000_0001)
"""That of its mounts: fixed since Linux 6.17, before that the first or second number that was given."""
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What tells a container from a machine. ``is_first_root``: this root is the first process's, in the
    machine's own pid namespace, or that of its first mount namespace. ``own_namespaces``: one of pid, uts
    and ipc is not the machine's. ``is_disk``: ``/`` is all of a disk.
    """

    is_first_root: bool
    own_namespaces: bool
    marks: tuple[str, ...] = ()
    is_disk: bool = False

    @classmethod
    def look(cls) -> Surroundings:
        """Those of this process. What cannot be read counts as a machine's."""
        numbers = {name: _namespace(name) for name in _FIRST_NAMESPACES}
        own = {name: numbers[name] not in (0, first) for name, first in _FIRST_NAMESPACES.items()}
        first_mounts = _namespace("mnt") in (0, *_FIRST_MOUNTS)
        return cls(
            is_first_root=first_mounts or (not own["pid"] and _same_as_first_root()),
            own_namespaces=any(own.values()),
            marks=tuple(mark for mark in MARKS if os.path.exists(mark)),
            is_disk=is_disk(),
        )

    def objection(self, *, forced: bool = False) -> str:
        """Why ``/`` must not be built in here; empty if it may be. ``forced``: somebody insists."""
        if self.is_first_root:
            return "it is the root of this machine's first process"
        if forced:
            return ""
        if not self.marks:
            return "nothing marks this as a container"
        if self.is_disk:
            return "it is a whole disk, as a machine's is"
        return ""


@dataclass(frozen=True, slots=True)
class OwnRoot:
    """What a build in ``/`` has to know: paths that are not the image's (``reserved``), directories that
    stay (``standing``), whether somebody insists (``forced``), and whether the container is put back as it
    was (``cleanup``).
    """

    reserved: tuple[str, ...]
    standing: tuple[str, ...] = ()
    forced: bool = False
    cleanup: bool = False

    @property
    def names(self) -> Reserved:
        """With the program's own directory, and what is mounted."""
        return Reserved.of((HOME, *self.reserved, *mount_points()), self.standing)


def check_expendable(surroundings: Surroundings, *, forced: bool = False) -> None:
    """Raise `IsolationError` unless ``/`` is the root of a container."""
    objection = surroundings.objection(forced=forced)
    if objection:
        insists = "" if surroundings.objection(forced=True) else "; --force says that this is one"
        raise IsolationError(
            f"an in-place build would replace everything in /, and {objection}",
            hint=f"--isolation inplace is for a container that is thrown away after the build{insists}",
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


def is_disk(listing: str | None = None) -> bool:
    """Whether ``/`` is all of a disk's file system, from ``listing`` (as `mount_points`)."""
    try:
        listing = Path("/proc/self/mountinfo").read_text() if listing is None else listing
    except OSError:
        return True
    disk = False
    for line in listing.splitlines():
        words, _, source = line.partition(" - ")
        root, place = words.split(" ")[3:5]
        if place == "/":  # of several the last one is seen
            disk = root == "/" and source.split(" ")[1].startswith("/dev/")
    return disk


def empty(
    reserved: Reserved,
    top: str = "/",
    on_entry: Callable[[], None] = lambda: None,
    *,
    forced: bool = False,
) -> None:
    """Remove everything below ``top`` but mounts and what is ``reserved`` there, and the directories that
    lead to it.

    Blocks; ``on_entry`` is called again and again, and may raise. Raises `IsolationError` for what must not
    or cannot be removed.
    """
    place = os.path.realpath(top)
    if os.path.samefile(place, "/"):
        check_expendable(Surroundings.look(), forced=forced)
    mounts = [os.path.relpath(path, place) for path in mount_points()]
    here = [path for path in mounts if not path.startswith("..")]
    kept = Reserved.of((*reserved.names, *here), reserved.leading)
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _empty(root, "", kept, os.fstat(root).st_dev, on_entry)
    except OSError as error:
        raise IsolationError(f"/ cannot be emptied: {error.strerror}: {error.filename}") from error
    finally:
        os.close(root)


def fill(view: View, reserved: Reserved, top: str = "/") -> None:
    """Write what ``view`` has, but for what is reserved, to ``top``: there is nothing but that and the
    directories which lead to it. Blocks.
    """
    trees = [Unreserved(tree, reserved) for tree in view.trees]
    directories: list[Entry] = []
    below = top.rstrip("/")
    for entry in View(trees).walk("", hardlinks=True):
        target = f"{below}/{entry.path}"
        if entry.kind is Kind.DIRECTORY:
            if entry.path and not (entry.path in reserved.leading and os.path.isdir(target)):
                os.mkdir(target, 0o700)
            directories.append(entry)
        elif entry.kind is Kind.HARDLINK:
            os.link(f"{below}/{entry.link}", target, follow_symlinks=False)
        else:
            write_entry(entry, target)
    for path in sorted(reserved.leading):
        os.makedirs(f"{below}/{path}", 0o755, exist_ok=True)
    for entry in reversed(directories):
        set_attributes(entry, f"{below}/{entry.path}")


def save(own: OwnRoot) -> None:
    """Copy what the container holds, so that `restore` can put it back. Blocks."""
    if not os.path.isdir(SAVED):
        remove(_SAVING)
        os.mkdir(_SAVING, 0o700)
        fill(View([DirectoryTree("/")]), own.names, _SAVING)
        os.rename(_SAVING, SAVED)


def restore(own: OwnRoot) -> None:
    """Put back what `save` copied, if it did. Blocks. Raises `IsolationError` or `StoreError`; a part of it
    is there then.
    """
    if os.path.isdir(SAVED):
        empty(own.names, forced=own.forced)
        try:
            fill(View([DirectoryTree(SAVED)]), own.names)
        except OSError as error:
            raise StoreError.of("the container's own files cannot be put back", error) from error
        remove(SAVED)


def _empty(
    handle: int, path: str, kept: Reserved, device: int, on_entry: Callable[[], None]
) -> bool:
    """Empty an open directory; whether nothing is left in it."""
    is_empty = True
    with os.scandir(handle) as listing:
        names = [entry.name for entry in listing]
    for name in names:
        on_entry()
        below = f"{path}/{name}" if path else name
        if below in kept.names:
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
    parent: int, name: str, rest: tuple[str, Reserved, int, Callable[[], None]]
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
    if not nothing_left or below in kept.leading:
        return False
    os.rmdir(name, dir_fd=parent)
    return True


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
