"""What RUN --mount shows: made in the stage first, with all its flags, then bound to its place.

Runs in the sandbox's own process, like `asyncbuild.rootfs.overlay`, in the stage. A mount goes through
three steps, each for all mounts before the next begins:

1. `Mounts` opens or makes what is to be shown (so that it is known whether it is a directory), as a mount
   of its own at a short name in the stage;
2. `place` finds or makes the mount points in the layers, while the root is not mounted yet (see
   `asyncbuild.rootfs.overlay` for why);
3. `attach` binds each mount to its point in the mounted root; a bind keeps the flags of what it shows.

A mount point below another mount is no matter of the layers: it is found, or made, in that mount when
its turn has come. Targets are found as the command would find them, links included, and never outside
the root.
"""

from __future__ import annotations

import errno
import os
import stat

from asyncbuild.rootfs import furniture, overlay, syscalls
from asyncbuild.rootfs.layering import Layering
from asyncbuild.rootfs.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY


class MountOrder:
    """One mount as it travels; the classes of `asyncbuild.rootfs.runspec` are the faces of these.

    ``kind`` is ``bind`` (source, inside, read_only, owner, movable), ``tree`` (lowers, inside, writes),
    ``tmpfs`` (size, read_only), ``secret`` (data, mode, uid, gid) or ``device`` (mode with its type,
    number, uid, gid).
    """

    kind: str
    target: bytes
    source = b""
    inside = b""
    lowers: list[bytes] = []  # noqa: RUF012 - a default, never changed
    writes = b""
    size = 0
    read_only = False
    data = b""
    mode = 0
    uid = 0
    gid = 0
    number = 0
    owner: tuple[int, int] | None = None
    movable = False

    def __init__(self, fields: dict[str, object]) -> None:
        self.__dict__.update(fields)


class MountFailed(Exception):
    """One mount cannot be made: its target, and the system's answer. ``mapping``: a copy would do."""

    def __init__(self, target: bytes, error: OSError, *, mapping: bool = False) -> None:
        super().__init__(target)
        self.target = target
        self.error = error
        self.mapping = mapping


class _Mount:
    """One mount on its way: its name in the stage, and its point in the root (``path``)."""

    def __init__(self, order: MountOrder, name: bytes) -> None:
        self.order = order
        self.name = name
        self.path = order.target.strip(b"/")
        self.directory = order.kind == "tmpfs"
        self.stubbed = False


class Mounts:
    """The mounts of one RUN. ``devices``: whether device nodes in what is shown can be opened;
    ``user_marks``: in a user namespace.
    """

    def __init__(
        self,
        orders: list[MountOrder],
        layering: Layering | None = None,
        *,
        devices: bool,
        user_marks: bool = False,
    ) -> None:
        self._nodev = 0 if devices else MS_NODEV
        self._user_marks = user_marks
        self._layering = layering or Layering(user_marks=user_marks)
        last = {order.target: order for order in orders}
        self._mounts = [
            _Mount(last[target], b"m%d" % number) for number, target in enumerate(sorted(last))
        ]
        for mount in self._mounts:
            with _Failing(mount):
                self._make(mount)

    def place(self, root: overlay.Overlay) -> None:
        """Find or make the mount points that lie in the layers."""
        taken = list(furniture.SYSTEM_DIRECTORIES)
        for mount in self._mounts:
            if not _is_below(mount.path, taken):
                with _Failing(mount):
                    path = root.place(mount.path, directory=mount.directory, follow=True)
                    if path is None:
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                mount.path, mount.stubbed = path, not root.has(path)
            taken.append(mount.path)

    def take_below(self, directories: tuple[bytes, ...]) -> list[tuple[bytes, bytes, int]]:
        """Hand over the mounts whose points lie below ``directories``, which somebody else mounts: each
        point, the name in the stage, and its flags. `attach` leaves them alone.
        """
        taken = [mount for mount in self._mounts if _is_below(mount.path, list(directories))]
        self._mounts = [mount for mount in self._mounts if mount not in taken]
        for mount in taken:
            if mount.order.kind == "tmpfs":
                with _Failing(mount):
                    self._make_tmpfs(mount, None)
        return [(mount.path, mount.name, self._flags(mount.order)) for mount in taken]

    def _flags(self, order: MountOrder) -> int:
        """The flags that a mount has been made with."""
        read_only = order.read_only or order.kind == "secret"
        read_only = read_only or (order.kind == "tree" and not order.writes)
        flags = MS_RDONLY if read_only else 0
        flags |= MS_NOSUID if order.kind in ("tmpfs", "secret") else 0
        return flags if order.kind == "device" else flags | self._nodev

    def attach(self) -> None:
        """Bind everything to its place, parents first."""
        if not self._mounts:
            return
        root = os.open(overlay.ROOT, os.O_PATH | os.O_DIRECTORY)
        for mount in self._mounts:
            with _Failing(mount):
                self._attach(mount, root)
        os.close(root)

    def _attach(self, mount: _Mount, root: int) -> None:
        mode = None
        try:
            point = syscalls.open_in_root(root, mount.path, os.O_PATH)
            mode = stat.S_IMODE(os.fstat(point).st_mode)
        except FileNotFoundError:
            point = _make_point(root, mount.path, directory=mount.directory)
        try:
            if mount.order.kind == "tmpfs":
                self._make_tmpfs(mount, None if mount.stubbed else mode)
            syscalls.bind(mount.name, b"/proc/self/fd/%d" % point, 0)
        finally:
            os.close(point)

    def _make(self, mount: _Mount) -> None:
        order = mount.order
        if order.kind == "bind":
            self._make_bind(mount)
        elif order.kind == "tree":
            self._make_tree(mount)
        elif order.kind == "secret":
            _write(mount.name, order)
            noexec = 0 if order.mode & 0o111 else MS_NOEXEC
            syscalls.bind(mount.name, mount.name, MS_RDONLY | MS_NOSUID | MS_NODEV | noexec)
        elif order.kind == "device":
            if self._user_marks:
                furniture.show_device(mount.name, order.mode, order.number)
            else:
                os.mknod(mount.name, order.mode, order.number)
                os.chown(mount.name, order.uid, order.gid)
                syscalls.bind(mount.name, mount.name, 0)

    def _make_bind(self, mount: _Mount) -> None:
        order = mount.order
        found = os.open(order.source, os.O_PATH)
        try:
            if order.inside:
                top, found = found, syscalls.open_in_root(found, order.inside, os.O_PATH)
                os.close(top)
            source = b"/proc/self/fd/%d" % found
            mount.directory = _make_place(mount.name, os.fstat(found).st_mode)
            flags = self._nodev | (MS_RDONLY if order.read_only else 0)
            if order.owner is None:
                syscalls.bind(source, mount.name, flags)
            else:
                try:
                    _bind_as_root(source, mount.name, order.owner)
                except OSError as error:
                    raise MountFailed(order.target, error, mapping=True) from error
                syscalls.change_flags(mount.name, flags)
        finally:
            os.close(found)

    def _make_tree(self, mount: _Mount) -> None:
        """An overlay of the layers beside the mount's place, and what stands inside it at its place."""
        order = mount.order
        tree = mount.name + b"t"
        os.mkdir(tree, 0o755)
        paths = overlay.each_once(order.lowers)
        lowers = [b"%b.%d" % (tree, number) for number in range(len(paths))]
        for name, path in zip(lowers, paths, strict=True):
            os.symlink(path, name)
        # overlayfs wants two layers where there is no upper directory
        shown = lowers if len(lowers) > 1 else [*lowers, b"void"]
        flags = self._nodev | (0 if order.writes else MS_RDONLY)
        if lowers or order.writes:
            self._layering.show(shown, tree, flags, _places(tree, order) if order.writes else None)
        top = os.open(tree, os.O_PATH | os.O_DIRECTORY)
        try:
            found = syscalls.open_in_root(top, order.inside or b".", os.O_PATH)
        finally:
            os.close(top)
        try:
            mount.directory = _make_place(mount.name, os.fstat(found).st_mode)
            syscalls.bind(b"/proc/self/fd/%d" % found, mount.name, flags)
        finally:
            os.close(found)

    def _make_tmpfs(self, mount: _Mount, mode: int | None) -> None:
        """As runc: a directory that was there lends its ``mode``; a new one is open to everyone."""
        order = mount.order
        os.mkdir(mount.name, 0o755)
        options = b"mode=%o" % (0o1777 if mode is None else mode)
        if order.size:
            options += b",size=%d" % order.size
        flags = MS_NOSUID | self._nodev | (MS_RDONLY if order.read_only else 0)
        syscalls.mount(b"tmpfs", mount.name, b"tmpfs", flags, options)


class _Failing:
    """Says which mount it is that fails."""

    def __init__(self, mount: _Mount) -> None:
        self._mount = mount

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise MountFailed(self._mount.order.target, error) from error


def _is_below(path: bytes, directories: list[bytes]) -> bool:
    return any(path == above or path.startswith(above + b"/") for above in directories)


def _make_place(name: bytes, mode: int) -> bool:
    """Something to mount upon in the stage; whether it is a directory."""
    if stat.S_ISDIR(mode):
        os.mkdir(name, 0o755)
        return True
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    return False


def _make_point(root: int, path: bytes, *, directory: bool) -> int:
    """Make a mount point in what is mounted in the root, with its parents; a descriptor of it."""
    parent, _, name = path.rpartition(b"/")
    try:
        above = syscalls.open_in_root(root, parent or b".", os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        above = _make_point(root, parent, directory=True)
    try:
        try:
            if directory:
                os.mkdir(name, 0o755, dir_fd=above)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(os.open(name, flags, 0o644, dir_fd=above))
        except FileExistsError:
            pass  # another build shares the cache that it stands in
        return os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)


def _places(tree: bytes, order: MountOrder) -> tuple[bytes, bytes]:
    """Where the writes of an overlay go, in the directory ``order.writes``."""
    upper, work = (os.path.join(order.writes, name) for name in (b"upper", b"work"))
    for path in (upper, work):
        os.mkdir(path, 0o755)
    if order.lowers:
        overlay.copy_attributes(order.lowers[0], upper)
    os.symlink(upper, tree + b".u")
    os.symlink(work, tree + b".w")
    return tree + b".u", tree + b".w"


def _write(name: bytes, order: MountOrder) -> None:
    with open(name, "xb") as file:
        file.write(order.data)
        os.fchown(file.fileno(), order.uid, order.gid)
        os.fchmod(file.fileno(), order.mode & 0o777)


def _bind_as_root(source: bytes, target: bytes, owner: tuple[int, int]) -> None:
    """Show what belongs to ``owner`` as root's: through the eyes of a user namespace made for it.

    A child makes the namespace and maps itself; it tells by which number /proc knows it.
    """
    told, tell = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            for name, number in ((b"uid_map", owner[0]), (b"gid_map", owner[1])):
                if name == b"gid_map":
                    _put(b"/proc/self/setgroups", b"deny")
                _put(b"/proc/self/" + name, b"%d 0 1" % number)
            os.write(tell, os.readlink(b"/proc/self"))
            os.read(wait, 1)
        finally:
            os._exit(0)
    for end in (tell, wait):
        os.close(end)
    try:
        process = os.read(told, 32)
        if not process:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), source)
        namespace = os.open(b"/proc/%b/ns/user" % process, os.O_RDONLY)
        try:
            syscalls.bind_mapped(source, target, namespace)
        finally:
            os.close(namespace)
    finally:
        for end in (told, go):
            os.close(end)
        os.waitpid(child, 0)


def _put(path: bytes, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)
