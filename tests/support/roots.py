"""Roots of layer directories, and RUNs upon them in real namespaces."""

from __future__ import annotations

import os
import select
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from asyncbuild.rootfs.runspec import RunSpec
from asyncbuild.rootfs.sandbox import OnOutput, RuntimePlace, run_sandboxed

_APPLETS = """
sh cat chgrp chmod chown chroot cp cut dd env false find grep head hostname id ifconfig ln ls mkdir mkfifo
mknod mount mv od ps pwd readlink rm rmdir sed seq setsid sleep sort stat sync tail touch tr true tty
umount unshare wc yes
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a RUN ended, and what it left."""

    code: int
    stdout: str
    stderr: str
    spec: RunSpec

    @property
    def upper(self) -> Path:
        """The upper directory."""
        return self.spec.upper

    @property
    def changes(self) -> dict[str, str]:
        """What the upper directory holds, as `listing` shows it."""
        return listing(self.spec.upper)


class Roots:
    """A place for layers and RUNs below one directory; RUNs use the busybox layer by default.

    ``place`` says if a runtime executes them.
    """

    def __init__(self, path: Path, place: RuntimePlace | None = None) -> None:
        self.path = path
        self.place = place
        self._runs = 0
        self._family = descendants(os.getpid())
        self.busybox = self.layer("busybox")
        (self.busybox / "bin").mkdir()
        shutil.copy("/bin/busybox", self.busybox / "bin/busybox")
        for applet in _APPLETS.split():
            (self.busybox / "bin" / applet).symlink_to("busybox")

    def layer(self, name: str) -> Path:
        """A new empty layer."""
        path = self.path / "layers" / name
        path.mkdir(parents=True, mode=0o755)
        return path

    def spec(self, *argv: str, **fields: Any) -> RunSpec:
        """A RunSpec with fresh upper and work directories, on busybox unless other layers are given.

        ``above`` are layers to put on top of busybox.
        """
        self._runs += 1
        run = self.path / "runs" / str(self._runs)
        for name in ("upper", "work"):
            (run / name).mkdir(parents=True)
        above: Sequence[Path] = fields.pop("above", ())
        fields.setdefault("lower_directories", (*above, self.busybox))
        fields.setdefault("environment", {"PATH": "/bin"})
        return RunSpec(argv, run / "upper", run / "work", **fields)

    def left(self) -> set[int]:
        """The processes that descend from this one and did not before: RUNs that go on."""
        return descendants(os.getpid()) - self._family

    async def execute(self, spec: RunSpec, on_output: OnOutput) -> int:
        """As `run_sandboxed`, with this place's sandbox."""
        return await run_sandboxed(spec, on_output, place=self.place)

    def run(self, *argv: str, **fields: Any) -> Ran:
        """Run a program to its end."""
        return trio.run(run_to_end, self.spec(*argv, **fields), self.place)

    def shell(self, script: str, **fields: Any) -> Ran:
        """Run a script of busybox's shell to its end."""
        return self.run("sh", "-c", script, **fields)


async def run_to_end(spec: RunSpec, place: RuntimePlace | None = None) -> Ran:
    """Run ``spec``, by the runtime of ``place`` if there is one, and keep its output."""
    output = {"stdout": b"", "stderr": b""}

    def keep(stream: str, data: bytes) -> None:
        output[stream] += data

    code = await run_sandboxed(spec, keep, place=place)
    return Ran(code, output["stdout"].decode(), output["stderr"].decode(), spec)


def listing(root: Path) -> dict[str, str]:
    """Every name below ``root``: ``dir``, ``opaque dir``, ``whiteout``, ``-> target`` or the text."""
    found = {}
    for where, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(where, name)
            found[str(path.relative_to(root))] = _describe(path)
    return found


def _describe(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"-> {path.readlink()}"
    if stat.S_ISDIR(status.st_mode):
        opaque = "trusted.overlay.opaque" in os.listxattr(path)
        return "opaque dir" if opaque else "dir"
    if stat.S_ISCHR(status.st_mode):
        return "whiteout" if status.st_rdev == 0 else f"device {status.st_rdev:#x}"
    return path.read_text()


def whiteout(path: Path) -> None:
    """Make an overlay whiteout."""
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def descendants(pid: int) -> set[int]:
    """The processes of this machine that descend from ``pid``, without itself."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = Path("/proc", name, "stat").read_text()
        except OSError:
            continue  # it ended while we looked
        parents[int(name)] = int(text.rpartition(")")[2].split()[1])
    found: set[int] = set()
    grown = {pid}
    while grown:
        grown = {child for child, parent in parents.items() if parent in grown} - found
        found |= grown
    return found


def assert_all_end(processes: Iterable[int]) -> None:
    """Wait until every one of these processes has ended; fail if one still runs after 20 s."""
    for pid in processes:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([handle], [], [], 20)[0], f"{pid} still runs"
        finally:
            os.close(handle)
