"""What a RUN is given: its root, its mounts, its limits. Data alone; `sandbox` executes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from asyncbuild.records import dataclass, field

DEFAULT_HOSTNAME = "buildkitsandbox"
"""BuildKit's: a RUN that writes its host's name into a file gives the same file here."""

FILES_DIRECTORY = "/dev/pipes"
"""Where the files of a RunSpec stand: heredocs that are run as scripts, as BuildKit has them."""

DEFAULT_SHM_SIZE = 64 << 20
"""Bytes of /dev/shm (containerd's default)."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file that only the RUN sees: ``name`` in `FILES_DIRECTORY`, owned by root."""

    name: str
    mode: int
    data: bytes

    def __post_init__(self) -> None:
        if "/" in self.name or self.name in ("", ".", ".."):
            raise ValueError(f"{self.name!r} cannot be the name of a file")

    @property
    def path(self) -> str:
        """Where the command finds it."""
        return f"{FILES_DIRECTORY}/{self.name}"


@dataclass(frozen=True, slots=True)
class BindMount:
    """A file, directory or socket of this machine, shown at the absolute path ``target``.

    ``inside`` is a path below ``source``, found as a process would whose root is ``source``: what
    someone else filled (a cache) cannot lead out of it. ``read_as``: show everything in it that belongs
    to this (uid, gid) as root's, by an idmapped mount. ``movable``: it is the builder's alone for the
    time of the RUN, and may be moved to its place and back where nothing can be mounted.
    """

    source: Path
    target: str
    read_only: bool = False
    inside: str = ""
    read_as_root: tuple[int, int] | None = None
    movable: bool = False


@dataclass(frozen=True, slots=True)
class TreeMount:
    """A tree of layers (topmost first, in overlayfs's format), or what stands ``inside`` it.

    It is read-only, unless ``writes`` names an empty directory (on the file system of layers) that
    takes what the command writes.
    """

    lower_directories: tuple[Path, ...]
    target: str
    inside: str = ""
    writes: Path | None = None


@dataclass(frozen=True, slots=True)
class TmpfsMount:
    """An empty file system in memory; ``size`` in bytes, 0 for the kernel's default limit."""

    target: str
    size: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A read-only file that exists in memory, and only for the command. Its repr has no data."""

    target: str
    data: bytes = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device of this machine that the command may open at ``target``; kind is ``c`` or ``b``."""

    target: str
    kind: Literal["c", "b"]
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


Mount: TypeAlias = BindMount | TreeMount | TmpfsMount | SecretFile | DeviceNode


_LIMIT_NAMES = """
cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime
"""
LIMITS = {name: number for number, name in enumerate(_LIMIT_NAMES.split())}
"""The numbers of setrlimit's resources on Linux (``asm-generic/resource.h``), by name."""


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit of setrlimit(2): ``name`` without RLIMIT_, in lower case; -1 is no limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One RUN.

    ``environment`` is exactly what the command gets (PATH and HOME are the caller's to add).
    ``working_directory`` is made, owned by the user, if it is missing. ``groups`` are the supplementary
    groups. Paths are absolute. ``lower_directories`` begin with the topmost layer, in overlayfs's format.
    ``upper`` is an empty directory and gets exactly what the command changes (its own attributes
    become those of the root). ``work`` is an empty directory on the same file system, which is left
    full of rubbish: remove it. ``extra_hosts`` are (name, address). ``resolv_conf`` is this machine's
    if None. Of several ``mounts`` with one target the last counts; no mount point is ever in ``upper``.
    ``privileged``: every capability and device, a writable /sys, nothing masked, no filter of system
    calls. ``no_new_privileges``: set-user-id programs give nobody more rights.
    """

    argv: tuple[str, ...]
    upper: Path
    work: Path
    lower_directories: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    working_directory: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    hostname: str = DEFAULT_HOSTNAME
    extra_hosts: tuple[tuple[str, str], ...] = ()
    resolv_conf: bytes | None = None
    network: Literal["host", "none"] = "host"
    files: tuple[RunFile, ...] = ()
    mounts: tuple[Mount, ...] = ()
    privileged: bool = False
    shm_size: int = DEFAULT_SHM_SIZE
    ulimits: tuple[Ulimit, ...] = ()
    no_new_privileges: bool = False

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise ValueError("a RUN needs a program")
        for path in (self.upper, self.work, *self.lower_directories):
            if not path.is_absolute():
                raise ValueError(f"{path} is not absolute")
        if not self.working_directory.startswith("/"):
            raise ValueError(f"the working directory {self.working_directory!r} is not absolute")
        for mount in self.mounts:
            parts = [part for part in mount.target.split("/") if part not in ("", ".")]
            if not mount.target.startswith("/") or not parts or ".." in parts:
                raise ValueError(f"{mount.target!r} cannot be a mount's target")


def hosts_file(spec: RunSpec) -> bytes:
    """The /etc/hosts of a RUN, as BuildKit writes it (``executor/oci/hosts.go``)."""
    lines = [
        f"127.0.0.1\tlocalhost {spec.hostname}",
        "::1\tlocalhost ip6-localhost ip6-loopback",
    ]
    return os.fsencode("".join(f"{line}\n" for line in lines)) + host_lines(spec.extra_hosts)


def host_lines(hosts: tuple[tuple[str, str], ...]) -> bytes:
    """Lines of /etc/hosts for (name, address)."""
    return os.fsencode("".join(f"{address}\t{name}\n" for name, address in hosts))
