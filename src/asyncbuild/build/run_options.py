"""What a build lends to its RUNs, and what it lets them have: secrets, agents, entitlements, limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbuild.dockerfile.mounts import Device
from asyncbuild.records import dataclass, field
from asyncbuild.rootfs.isolation import Isolation
from asyncbuild.rootfs.runspec import Ulimit

if TYPE_CHECKING:
    from asyncbuild.rootfs.ownroot import OwnRoot

LARGEST_SECRET = 500 << 10
"""Bytes (BuildKit's limit)."""

SECURITY_INSECURE = "security.insecure"
NETWORK_HOST = "network.host"
DEVICE = "device"
ENTITLEMENTS = (SECURITY_INSECURE, NETWORK_HOST, DEVICE)
"""What ``--allow`` can name. The host's network needs no permission here: it is every RUN's."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The bytes of a secret; no repr shows them."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SshSource:
    """What answers for an ssh id: the socket of an agent, or files with private keys.

    ``raw``: whatever listens at the socket is forwarded as it is; otherwise it is an agent that may list
    keys and sign, and is asked for nothing else.
    """

    socket: Path | None = None
    keys: tuple[Path, ...] = ()
    raw: bool = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """``secrets`` and ``ssh`` by their ids. ``allow`` holds entitlements (also ``device=NAME``).

    ``devices`` are those of every RUN; the files of ``device_directories`` describe them. ``shm_size``
    and ``memory`` are in bytes, ``cpus`` is a number of processors; None is the default, or no limit.
    ``isolation`` is how RUNs are executed; in place needs an ``own_root``. ``oci_runtime`` names a program
    that executes them (runc, crun; a name or an absolute path); empty for our own sandbox.
    ``no_new_privileges``: set-user-id programs give nobody more rights.
    """

    secrets: Mapping[str, Secret] = field(default_factory=dict)
    ssh: Mapping[str, SshSource] = field(default_factory=dict)
    allow: frozenset[str] = frozenset()
    devices: tuple[Device, ...] = ()
    device_directories: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))
    shm_size: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    memory: int | None = None
    cpus: float | None = None
    isolation: Isolation = Isolation.AUTO
    oci_runtime: str = ""
    own_root: OwnRoot | None = None
    no_new_privileges: bool = False
