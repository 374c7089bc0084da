"""What a command cost: wall time, CPU of its whole process tree, peak memory of its whole process tree.

The command runs in a control group of its own where one can be made (version 1 ``cpuacct`` or version
2): the kernel then accounts for every descendant, whatever becomes of its parent, and lists them
cheaply. Elsewhere CPU is what ``wait4`` reports and the tree is found by parent ids. Memory is sampled
every 20 ms: the sum of RSS, which counts shared pages once per process, and at each new peak the sum of
PSS, which does not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUPS = ("/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup")
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds and bytes of one command and all its descendants; ``started`` on the clock of
    ``time.time()``.
    """

    exit_code: int
    started: float
    wall: float
    cpu: float
    peak_rss: int
    peak_pss: int


class Cell:
    """A control group for one measured tree; ``path`` is None where the machine does not let us make
    one.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        for parent in _GROUPS:
            path = Path(parent) / f"asyncbuild-perf-{os.getpid()}-{next(_numbers)}"
            if not (Path(parent) / "cgroup.procs").exists():
                continue
            with contextlib.suppress(OSError):
                path.mkdir()
                self.path = path
                break

    def adopt(self, pid: int) -> None:
        """Move a running process (a daemon) in."""
        if self.path is not None:
            (self.path / "cgroup.procs").write_text(str(pid))

    def wrap(self, command: list[str]) -> list[str]:
        """The command, started inside."""
        if self.path is None:
            return command
        return [
            "/bin/sh",
            "-c",
            'echo $$ > "$0/cgroup.procs" && exec "$@"',
            str(self.path),
            *command,
        ]

    def cpu(self) -> float | None:
        """CPU seconds so far, user and system."""
        if self.path is None:
            return None
        if (usage := self.path / "cpuacct.usage").exists():
            return int(usage.read_text()) / 1e9
        for line in (self.path / "cpu.stat").read_text().splitlines():
            name, value = line.split()
            if name == "usage_usec":
                return int(value) / 1e6
        return None

    def members(self, root: int) -> list[int]:
        """Process ids that live inside (without a group: ``root`` and its descendants)."""
        if self.path is not None:
            return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]
        return list(_descendants(root))

    def close(self) -> None:
        """Remove the group; what is still inside moves up."""
        if self.path is None:
            return
        for pid in self.members(0):
            with contextlib.suppress(OSError):
                (self.path.parent / "cgroup.procs").write_text(str(pid))
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


def _rss(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _pss(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class _Sampler(threading.Thread):
    """Follows the memory of a tree until it is told to stop."""

    def __init__(self, cell: Cell, root: int) -> None:
        super().__init__(daemon=True)
        self._cell, self._root = cell, root
        self._stop_asked = threading.Event()
        self.peak_rss = self.peak_pss = 0

    def run(self) -> None:
        """Sample every 20 ms; PSS costs more and is read only where RSS is 3 % above what it was
        then.
        """
        examined = 0
        while not self._stop_asked.wait(0.02):
            pids = self._cell.members(self._root)
            rss = sum(map(_rss, pids))
            self.peak_rss = max(self.peak_rss, rss)
            if rss > examined * 1.03:
                examined = rss
                self.peak_pss = max(self.peak_pss, sum(map(_pss, pids)))

    def finish(self) -> None:
        """Stop and join."""
        self._stop_asked.set()
        self.join()


def measure(command: list[str], *, environment: dict[str, str], log: Path, cell: Cell) -> Usage:
    """Run ``command`` to its end, its output appended to ``log``."""
    before = cell.cpu()
    with log.open("ab") as output:
        started, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            cell.wrap(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
        sampler = _Sampler(cell, process.pid)
        sampler.start()
        _, status, resources = os.wait4(process.pid, 0)
        wall = time.monotonic() - clock
    process.returncode = os.waitstatus_to_exitcode(status)
    sampler.finish()
    after = cell.cpu()
    waited = resources.ru_utime + resources.ru_stime
    cpu = waited if after is None or before is None else max(waited, after - before)
    return Usage(process.returncode, started, wall, cpu, sampler.peak_rss, sampler.peak_pss)
