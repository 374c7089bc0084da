"""Runs one static program in a root of its own: ``jail.py ROOT TOKEN CONTEXT PROGRAM ARGUMENT…``.

kaniko unpacks images over ``/`` and empties it between stages, so it must never see the machine's root.
This program is started by ``unshare --mount --pid --fork --propagation private``; it makes ROOT its root
with ``pivot_root`` and lets the old one go. Then it looks around, and refuses to execute anything unless
the root is the one that was prepared (it holds TOKEN), and nothing of the machine is left. Only the
standard library's smallest modules are imported: the program's start counts in the measured time.
"""

from __future__ import annotations

import ctypes
import os
import sys

#: What the prepared root may hold, and nothing else.
EXPECTED = frozenset(["dev", "etc", "kaniko", "proc", "tmp", "workspace", ".perf-jail"])
#: File systems that may be mounted once the machine's root is gone.
MOUNTS = frozenset(["/", "/dev", "/proc", "/workspace"])
REFUSED = 97

_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    words = (source.encode(), target.encode(), kind.encode())
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), None), target)


def enter(root: str, context: str) -> None:
    """Make ``root`` the root, with devices of its own and the context to be read only."""
    if os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{os.environ['JAIL_PARENT']}/ns/mnt"):
        raise SystemExit("jail: not in a mount namespace of its own")
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount(root, root, "", _MS_BIND)
    _mount("proc", f"{root}/proc", "proc", 0)
    _mount("tmpfs", f"{root}/dev", "tmpfs", 0)
    for minor, name in ((3, "null"), (5, "zero"), (8, "random"), (9, "urandom")):
        os.mknod(f"{root}/dev/{name}", 0o20666, os.makedev(1, minor))
        os.chmod(f"{root}/dev/{name}", 0o666)
    _mount(context, f"{root}/workspace", "", _MS_BIND)
    _mount("none", f"{root}/workspace", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
    os.chdir(root)
    _checked(_libc.pivot_root(b".", b"."), root)
    _checked(_libc.umount2(b".", _MNT_DETACH), "the old root")
    os.chdir("/")


def objections(token: str) -> list[str]:
    """Why nothing may be executed here; empty if this is the prepared root and nothing else."""
    found = []
    try:
        with open("/.perf-jail", "rb") as marker:
            if marker.read() != os.fsencode(token):
                found.append("the root is another jail's")
    except OSError:
        found.append("the root is not a jail")
    if strange := sorted(set(os.listdir("/")) - EXPECTED):
        found.append(f"the root holds {', '.join(strange)}")
    with open("/proc/self/mountinfo", "rb") as table:
        # Bytes: the codecs of Python's library went away with the old root.
        mounted = {os.fsdecode(line.split()[4]) for line in table}
        if strange := sorted(mounted - MOUNTS):
            found.append(f"still mounted: {', '.join(strange)}")
    if os.getpid() != 1:
        found.append("not process 1 of a namespace")
    return found


def main(arguments: list[str]) -> int:
    """Enter, look around, and become the program."""
    root, token, context, *command = arguments
    if root != "/":
        enter(root, context)
    wrong = objections(token)
    if not wrong:
        os.execve(command[0], command, {k: v for k, v in os.environ.items() if k != "JAIL_PARENT"})
    sys.stderr.write(f"jail: refused: {'; '.join(wrong)}\n")
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
