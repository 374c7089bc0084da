"""Limits on memory and processors of a RUN, through control groups, where this place permits them.

A group is made below the builder's own, in version 2 (``memory.max``, ``cpu.max``) or in the hierarchies
of version 1 (``memory.limit_in_bytes``, ``cpu.cfs_quota_us``), the sandbox's process is put into it, and it
is removed when the RUN has ended. Groups that a killed builder left are removed by the next one that
limits anything. See ``Documentation/admin-guide/cgroup-v2.rst`` and ``cgroup-v1`` in the kernel.

Everything here blocks, for microseconds.
"""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path

from asyncbuild.errors import AsyncbuildError
from asyncbuild.records import dataclass

PROC = Path("/proc/self")
"""Where it is told which groups this process is in, and where they are mounted."""

_PREFIX = "asyncbuild-"
_PERIOD = 100_000
"""Microseconds over which processor time is counted (the kernel's default, and docker's)."""
_numbers = itertools.count(1)


class CannotLimit(AsyncbuildError):
    """No group can be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``memory`` in bytes, ``cpus`` a number of processors; None is no limit."""

    memory: int | None = None
    cpus: float | None = None

    def __bool__(self) -> bool:
        return self.memory is not None or self.cpus is not None

    def files(self, *, version: int) -> dict[str, dict[str, str]]:
        """What is written into which file of which controller's group."""
        wanted: dict[str, dict[str, str]] = {}
        if self.memory is not None:
            name = "memory.max" if version == 2 else "memory.limit_in_bytes"
            wanted["memory"] = {name: str(self.memory)}
        if self.cpus is not None:
            quota = max(1000, round(self.cpus * _PERIOD))
            if version == 1:
                wanted["cpu"] = {"cpu.cfs_period_us": str(_PERIOD), "cpu.cfs_quota_us": str(quota)}
            else:
                wanted["cpu"] = {"cpu.max": f"{quota} {_PERIOD}"}
        return wanted


class Group:
    """The control groups of one RUN; close it when its processes have ended."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths

    @classmethod
    def make(cls, limits: Limits, *, proc: Path | None = None) -> Group:
        """Make a group with these limits. ``proc`` stands for `PROC`. Raises `CannotLimit`."""
        proc = proc or PROC
        errors = []
        for find, version in ((_unified, 2), (_separate, 1)):
            wanted = limits.files(version=version)
            group = cls({})
            try:
                for controller, parent in find(proc, set(wanted)).items():
                    group._add(controller, parent, wanted[controller])
            except OSError as error:
                group.close()
                errors.append(f"{error.strerror}: {error.filename}")
                continue
            if set(group._paths) == set(wanted):
                return group
            group.close()
        raise CannotLimit(f"no control group can be made here: {'; '.join(errors) or 'none found'}")

    def _add(self, controller: str, parent: Path, files: dict[str, str]) -> None:
        _remove_dead(parent)
        known = next((path for path in self._paths.values() if path.parent == parent), None)
        path = known or parent / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        if known is None:
            path.mkdir()
        self._paths[controller] = path
        for name, value in files.items():
            (path / name).write_text(value)

    def add(self, pid: int) -> None:
        """Put a process into it; what it starts from now on is in it too."""
        for path in set(self._paths.values()):
            (path / "cgroup.procs").write_text(str(pid))

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed something in it for want of memory."""
        path = self._paths.get("memory")
        if path is None:
            return False
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError):
                fields = dict(line.split() for line in (path / name).read_text().splitlines())
                return int(fields.get("oom_kill", 0)) > 0
        return False

    def close(self) -> None:
        """Remove it."""
        for path in set(self._paths.values()):
            with suppress(OSError):
                path.rmdir()
        self._paths = {}


def _unified(proc: Path, controllers: set[str]) -> dict[str, Path]:
    """The builder's own group in version 2, or the one above it, if a group below can have them.

    A group with processes in it, as the builder's own is, gives none (but the root): where systemd has
    handed a part of the hierarchy to its user, the group above does.
    """
    for top, place, names in _hierarchies(proc):
        if not names:
            parent = _join(top, place)
            if not controllers <= _words(parent / "cgroup.controllers"):
                return {}
            enabled = _words(parent / "cgroup.subtree_control")
            if not controllers <= enabled and _can_take(parent.parent, top, controllers):
                parent, enabled = parent.parent, controllers
            for name in sorted(controllers - enabled):
                (parent / "cgroup.subtree_control").write_text(f"+{name}")
            return dict.fromkeys(sorted(controllers), parent)
    return {}


def _can_take(group: Path, top: Path, controllers: set[str]) -> bool:
    """Whether ``group`` is of the hierarchy, may be written to, and gives the controllers already."""
    given = group / "cgroup.subtree_control"
    if not group.is_relative_to(top) or not os.access(group, os.W_OK) or not given.exists():
        return False
    return controllers <= _words(given)


def _words(path: Path) -> set[str]:
    return set(path.read_text().split())


def _separate(proc: Path, controllers: set[str]) -> dict[str, Path]:
    """The builder's own groups in the hierarchies of version 1."""
    return {
        name: _join(top, place)
        for top, place, names in _hierarchies(proc)
        for name in sorted(controllers & names)
    }


def _hierarchies(proc: Path) -> list[tuple[Path, str, set[str]]]:
    """Mounted hierarchies: where, the builder's place in them, and controllers (none: version 2)."""
    mounted: dict[frozenset[str], tuple[Path, str]] = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            names = (
                frozenset(options.split(",")) - {"rw", "ro"} if kind == "cgroup" else frozenset()
            )
            mounted[names] = (Path(fields[4]), fields[3])
    found = []
    for line in (proc / "cgroup").read_text().splitlines():
        _, text, place = line.split(":", 2)
        names = frozenset(filter(None, text.split(",")))
        for controllers, (top, below) in mounted.items():
            if names <= controllers and bool(names) == bool(controllers):
                # a container sees a part of the hierarchy: its own place is below what is mounted
                own = place.removeprefix(below) if below != "/" else place
                found.append((top, own, set(names)))
                break
    return found


def _join(top: Path, place: str) -> Path:
    path = top / place.strip("/")
    return path if path.is_dir() else top


def _remove_dead(parent: Path) -> None:
    """Remove the groups of builders that have ended; those in use refuse to go."""
    for path in parent.glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            with suppress(OSError):
                path.rmdir()
