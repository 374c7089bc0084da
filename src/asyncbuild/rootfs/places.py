"""What a RUN is given beside its root, where nothing can be mounted: put in place, and taken away again.

Every place is covered: what stands there is moved aside, and moved back when the command has ended. So none
of this is in a layer. What cannot be had: a limit of a tmpfs, and a mount that is read-only to root.

- A directory or file that others may use is copied, and the copy thrown away. One that is the builder's
  alone for now (a cache) is moved there and back.
- A socket is linked: whoever connects reaches the same one.
- A secret is a file on the store's file system while the command runs, for the owner that it names.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import Kind
from asyncbuild.layers.paths import resolve_links
from asyncbuild.rootfs import syscalls
from asyncbuild.rootfs.mounts import MountFailed, MountOrder
from asyncbuild.rootfs.plainroot import copy_tree, remove, write_tree
from asyncbuild.rootfs.view import DirectoryTree, View

DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
STREAMS = ("stdout", "stderr")
"""Names in /dev that are fifos here: what is written to them is the command's output."""


class Places:
    """What stands in ``root`` for the time of a RUN; ``aside`` is an empty directory beside it."""

    def __init__(self, root: str, aside: str) -> None:
        self._root = root
        self._aside = aside
        self._undo: list[Callable[[], None]] = []
        self._number = 0
        self._moved: dict[str, str] = {}

    def cover(self, path: str, make: Callable[[str], object], *, follow: bool = False) -> None:
        """Put what ``make`` makes at ``path`` in the root; NotADirectoryError if no such place can be.

        Links in its parents are followed inside the root; one at the end only with ``follow``.
        """
        try:
            real = resolve_links(self._read_link, path, follow_last=follow)
        except InputError as error:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error
        parent, _, _ = real.rpartition("/")
        self._make_parents(parent)
        host, above = f"{self._root}/{real}", f"{self._root}/{parent}"
        times = _times(above)
        try:
            kept = self._set_aside(host) if os.path.lexists(host) else ""
        except OSError as error:
            if error.errno != errno.EBUSY or not os.path.isfile(host):
                raise
            self._write_over(host, make)
            return
        self._undo.append(lambda: _put_back(host, above, kept))
        make(host)
        os.utime(above, ns=times)

    def mode_at(self, path: str) -> int | None:
        """The permissions of what stands at ``path``; None for nothing."""
        try:
            real = resolve_links(self._read_link, path)
            return stat.S_IMODE(os.lstat(f"{self._root}/{real}").st_mode)
        except (OSError, InputError):
            return None

    def take_away(self) -> None:
        """Everything as it was, in the reverse order; what the command removed stays removed."""
        while self._undo:
            self._undo.pop()()

    def link_to_moved(self, source: str, host: str) -> bool:
        """Make ``host`` a link to where ``source`` was moved, if it was."""
        for known, there in self._moved.items():
            if source == known or source.startswith(f"{known}/"):
                os.symlink(there.removeprefix(self._root) + source.removeprefix(known), host)
                return True
        return False

    def move_in(self, source: str, host: str) -> None:
        """Move ``source`` to ``host`` for now."""
        _move(source, host)
        self._moved[source] = host
        self._undo.append(lambda: _move_back(host, source))

    def _make_parents(self, path: str) -> None:
        missing = []
        while path and not os.path.lexists(f"{self._root}/{path}"):
            missing.append(path)
            path = path.rpartition("/")[0]
        for name in reversed(missing):
            host = f"{self._root}/{name}"
            above = os.path.dirname(host)
            times = _times(above)
            os.mkdir(host, 0o755)
            os.utime(above, ns=times)
            self._undo.append(lambda host=host, above=above: _remove_empty(host, above))  # type: ignore[misc]

    def _set_aside(self, host: str) -> str:
        """Move what stands at ``host``; in the same directory if that is on another file system."""
        self._number += 1
        kept = f"{self._aside}/{self._number}"
        try:
            os.rename(host, kept)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            kept = f"{os.path.dirname(host)}/.asyncbuild-{self._number}"
            os.rename(host, kept)
        return kept

    def _write_over(self, host: str, make: Callable[[str], object]) -> None:
        """Give a file that is a mount of its own, as only in place there are, another content for now."""
        self._number += 1
        made, was = f"{self._aside}/{self._number}", f"{self._aside}/{self._number}-was"
        make(made)
        if not os.path.isfile(made) or os.path.islink(made):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), host)
        copy_tree(host, was)
        self._undo.append(lambda: _fill_file(host, was))
        _fill_file(host, made)

    def _read_link(self, path: str) -> str | None:
        try:
            return os.readlink(f"{self._root}/{path}")
        except OSError:
            return None


def _times(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_atime_ns, found.st_mtime_ns


def _put_back(host: str, above: str, kept: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        times = _times(above)
        remove(host)
        if kept:
            os.rename(kept, host)
        os.utime(above, ns=times)


def _move_back(host: str, source: str) -> None:
    with suppress(FileNotFoundError):
        _move(host, source)


def _fill_file(host: str, source: str) -> None:
    """Content, permissions and owner of ``source`` into a file that stays the file it is."""
    status = os.stat(source)
    with open(source, "rb") as given, open(host, "r+b") as file:
        file.truncate()
        file.write(given.read())
        os.fchown(file.fileno(), status.st_uid, status.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
    os.utime(host, ns=(status.st_atime_ns, status.st_mtime_ns))


def _move(source: str, target: str) -> None:
    """Rename; between file systems, as they may be in place, copy and remove."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_tree(source, target)
        remove(source)


def _remove_empty(host: str, above: str) -> None:
    """What the command wrote into a place that was made for a mount stays, with the place."""
    with suppress(OSError):
        times = _times(above)
        os.rmdir(host)
        os.utime(above, ns=times)


def furnish(places: Places, files: list[tuple[str, int, bytes]]) -> list[str]:
    """/proc, /sys (empty) and /dev with what can be had; the fifos that are the command's output."""
    for name in ("proc", "sys"):
        places.cover(name, lambda host: os.mkdir(host, 0o555))
    fifos: list[str] = []
    places.cover("dev", lambda host: fifos.extend(_make_dev(host, files)))
    return fifos


def _make_dev(host: str, files: list[tuple[str, int, bytes]]) -> list[str]:
    os.mkdir(host, 0o755)
    for name, major, minor in DEVICES:
        make_device(f"{host}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    os.symlink("null", f"{host}/stdin")
    for name, mode in (("shm", 0o1777), ("mqueue", 0o1777), ("pts", 0o755)):
        os.mkdir(f"{host}/{name}")
        os.chmod(f"{host}/{name}", mode)
    for name in STREAMS:
        os.mkfifo(f"{host}/{name}")
        os.chmod(f"{host}/{name}", 0o666)  # noqa: S103 - a command may be any user's
    for path, mode, data in files:
        target = f"{host}/{path.removeprefix('/dev/')}"
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        write_file(target, data, mode)
    return [f"{host}/{name}" for name in STREAMS]


def make_device(host: str, mode: int, number: int) -> None:
    """A device node, or an empty file where none can be made or opened (for null that does, mostly)."""
    try:
        os.mknod(host, mode, number)
        os.chmod(host, stat.S_IMODE(mode))
        if not host.endswith("/tty"):
            os.close(os.open(host, os.O_RDONLY))
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(host)
        if host.endswith("/null"):
            write_file(host, b"", 0o666)


def write_file(host: str, data: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
    """A new file with exactly these attributes."""
    made = os.open(host, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(made, "wb") as file:
        file.write(data)
        os.fchown(made, *owner)
        os.fchmod(made, mode)


def show_mounts(places: Places, orders: list[MountOrder]) -> None:
    """Put every mount in its place, parents first; of several with one target the last counts."""
    last = {order.target: order for order in orders}
    for target in sorted(last):
        try:
            _show(places, os.fsdecode(target).strip("/"), last[target])
        except OSError as error:
            raise MountFailed(target, error) from error


def _show(places: Places, path: str, order: MountOrder) -> None:
    owner = (order.uid, order.gid)
    if order.kind == "bind":
        places.cover(path, lambda host: _bind(places, order, host), follow=True)
    elif order.kind == "tree":
        view = View([DirectoryTree(os.fsdecode(lower)) for lower in order.lowers])
        places.cover(path, lambda host: _write_tree(view, order, host), follow=True)
    elif order.kind == "tmpfs":
        mode = places.mode_at(path)
        places.cover(path, lambda host: _empty(host, 0o1777 if mode is None else mode), follow=True)
    elif order.kind == "secret":
        mode = order.mode & 0o777
        places.cover(path, lambda host: write_file(host, order.data, mode, owner), follow=True)
    else:
        places.cover(path, lambda host: _device(host, order), follow=True)


def _empty(host: str, mode: int) -> None:
    os.mkdir(host)
    os.chmod(host, mode)


def _device(host: str, order: MountOrder) -> None:
    os.mknod(host, order.mode, order.number)
    os.chown(host, order.uid, order.gid)
    os.chmod(host, stat.S_IMODE(order.mode))


def _write_tree(view: View, order: MountOrder, host: str) -> None:
    path = view.resolve(os.fsdecode(order.inside))
    found = view.lookup(path)
    if found is not None and found.kind is Kind.DIRECTORY:
        os.mkdir(host, 0o700)
    write_tree(view, path, host)


def _bind(places: Places, order: MountOrder, host: str) -> None:
    """Find the source as a process would whose root is the source, and show it."""
    source = os.fsdecode(order.source)
    if places.link_to_moved(os.path.join(source, os.fsdecode(order.inside)).rstrip("/"), host):
        return
    if order.inside:
        top = os.open(order.source, os.O_PATH | os.O_DIRECTORY)
        try:
            found = syscalls.open_in_root(top, order.inside, os.O_PATH)
        finally:
            os.close(top)
        source = os.readlink(f"/proc/self/fd/{found}")
        os.close(found)
    if stat.S_ISSOCK(os.stat(source).st_mode):
        _show_socket(source, host)
    elif order.movable and not order.read_only:
        places.move_in(source, host)
    elif order.read_only:
        copy_tree(os.path.realpath(source), host, order.owner)
    else:
        raise OSError(errno.EPERM, "it is shared with this machine, which needs a mount")


def _show_socket(source: str, host: str) -> None:
    """The same socket; on another file system, which only a build in place has, by a link to its path."""
    try:
        os.link(source, host)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        os.symlink(source, host)
