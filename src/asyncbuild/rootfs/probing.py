"""The program that tries what a place permits; `asyncbuild.rootfs.isolation` starts it, reads its answer.

Every attempt is made in a process of its own, which ends with it: namespaces, mounts and all. ``sys.argv``
has the package's directory, then an empty directory on the file system of the store, which is left full of
rubbish, then the names of what to try. The answer is a marshalled dictionary on stdout: for each attempt
None if it worked, else a text that says what did not.

Like `asyncbuild.rootfs.init` this must start fast: nothing heavy is imported.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys

from asyncbuild.rootfs import layering, syscalls

_NULL = (1, 3)
_USER_MAPS = (("setgroups", "deny"), ("uid_map", "0 {} 1"), ("gid_map", "0 {} 1"))


def main() -> None:
    """Make the attempts that ``sys.argv`` names behind the directory; all of them if it names none."""
    directory, *wanted = sys.argv[2:]
    answers = {}
    for name, attempt in ATTEMPTS.items():
        if not wanted or name in wanted:
            place = os.path.join(directory, name)
            os.mkdir(place, 0o755)
            answers[name] = _tried(attempt, place)
    os.write(1, marshal.dumps(answers))
    os._exit(0)


def _tried(attempt: object, place: str) -> str | None:
    """Make one attempt in a child; what refused it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            attempt(place)  # type: ignore[operator]
        except OSError as error:
            what = error.filename
            name = os.fsdecode(what) if isinstance(what, (str, bytes)) else ""
            about = f"{name}: " if name and not name.startswith((place, "/proc/self")) else ""
            os.write(writing, f"{about}{error.strerror}".encode())
            os._exit(1)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the place refuses this
            os.write(writing, repr(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    text = b""
    while piece := os.read(reading, 4096):
        text += piece
    os.close(reading)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return None
    return text.decode("utf-8", "replace") or f"killed by signal {-code}"


def _private_mounts() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"", b"/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)


def _mount_overlay(place: str, more: str) -> None:
    os.chdir(place)
    for name in ("low", "up", "work", "root"):
        os.mkdir(name)
    options = f"lowerdir=low,upperdir=up,workdir=work{more}"
    try:
        syscalls.mount(b"overlay", b"root", b"overlay", 0, options.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, "mounting an overlay") from error
    with open("root/file", "w") as file:
        file.write("written")
    os.stat("up/file")


def _overlay(place: str) -> None:
    _private_mounts()
    _mount_overlay(place, ",redirect_dir=off,metacopy=off,index=off,volatile")


def _pid_namespace(_place: str) -> None:
    syscalls.unshare(syscalls.CLONE_NEWPID)


def _network_namespace(_place: str) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)


def _user_namespace(_place: str) -> None:
    """A namespace in which this user is root: it alone, which nobody needs to permit."""
    numbers = {"uid_map": os.getuid(), "gid_map": os.getgid(), "setgroups": 0}
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    for name, text in _USER_MAPS:
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text.format(numbers[name]))


def _user_overlay(place: str) -> None:
    _user_namespace(place)
    _private_mounts()
    _mount_overlay(place, ",userxattr")


def _fuse_overlay(place: str) -> None:
    """The same by fuse-overlayfs, and what it hides of a layer."""
    program = layering.find_program()
    if not program:
        raise OSError(0, "there is no fuse-overlayfs")
    _user_namespace(place)
    _private_mounts()
    os.chdir(place)
    for name in ("above", "low", "up", "work", "root"):
        os.mkdir(name)
    os.mkdir("low/gone")
    os.mknod("above/gone", stat.S_IFCHR, os.makedev(0, 0))
    shown = layering.Layering(user_marks=True, program=program)
    shown.show([b"above", b"low"], b"root", 0, (b"up", b"work"))
    with open("root/file", "w") as file:
        file.write("written")
    os.stat("up/file")
    if os.listdir("root") != ["file"]:
        raise OSError(0, "whiteouts have no effect")


def _user_proc(place: str) -> None:
    _user_namespace(place)
    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
    child = os.fork()
    if child == 0:
        os._exit(_errno_of_proc(place))
    _, status = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(status)
    if number:
        raise OSError(number, os.strerror(number), "mounting proc")


def _errno_of_proc(place: str) -> int:
    try:
        syscalls.mount(b"", b"/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount(b"proc", os.fsencode(place), b"proc")
    except OSError as error:
        return error.errno or 1
    return 0


def _subordinate_ids(_place: str) -> None:
    """A namespace with further ids: newuidmap and newgidmap do what /etc/subuid and /etc/subgid say. Root
    has those of its own.
    """
    from asyncbuild.rootfs.subordinates import find_subordinates  # noqa: PLC0415 - takes its time
    from asyncbuild.rootfs.user_namespace import enter, maps_one_id  # noqa: PLC0415

    if os.geteuid() == 0 and not maps_one_id():
        return
    ids = find_subordinates()
    if not (ids.users and ids.groups):
        raise OSError(0, "no line in /etc/subuid or /etc/subgid")
    if not ids:
        raise OSError(0, "no newuidmap, or no newgidmap")
    if not enter(ids):
        raise OSError(0, "newuidmap or newgidmap refused")


def _chroot(place: str) -> None:
    os.chroot(place)
    os.chdir("/")


def _user_chroot(place: str) -> None:
    """An ordinary user, as root of a namespace."""
    if os.geteuid() == 0:
        raise OSError(0, "this is no ordinary user")
    _subordinate_ids(place)
    _chroot(place)
    _owners("/")


def _devices(place: str) -> None:
    """A device node that can be made, and opened: the file system may be mounted nodev."""
    node = os.path.join(place, "null")
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(*_NULL))
    os.close(os.open(node, os.O_WRONLY))


def _owners(place: str) -> None:
    """Files that belong to somebody else."""
    os.chown(place, 12345, 12345)
    os.setgroups([])
    os.setresgid(12345, 12345, 12345)
    os.setresuid(12345, 12345, 12345)


def _own_root(_place: str) -> None:
    """Writing to ``/``, as an in-place build does."""
    name = f"/.asyncbuild-probe-{os.getpid()}"
    os.mkdir(name)
    os.rmdir(name)


def _openat2(place: str) -> None:
    top = os.open(place, os.O_PATH | os.O_DIRECTORY)
    os.close(syscalls.open_in_root(top, b".", os.O_PATH))


ATTEMPTS = {
    "overlay": _overlay,
    "pid-namespace": _pid_namespace,
    "network-namespace": _network_namespace,
    "user-namespace": _user_namespace,
    "user-overlay": _user_overlay,
    "fuse-overlay": _fuse_overlay,
    "user-proc": _user_proc,
    "subordinate-ids": _subordinate_ids,
    "user-chroot": _user_chroot,
    "chroot": _chroot,
    "devices": _devices,
    "owners": _owners,
    "own-root": _own_root,
    "openat2": _openat2,
}
"""By the names of `asyncbuild.rootfs.isolation.Ability`."""
