"""The ``config.json`` of a RUN that an OCI runtime executes: orders, in the runtime specification's words.

What a runtime is given and what it is not:

- the root as it stands in the stage, overlay, mounts and all (runtimes bind it with what is mounted in
  it), so that mount points are found, and errors told, as in our own sandbox;
- namespaces for mounts, ipc and host name, and for the network where there is to be none. The pid namespace
  is the one that `asyncbuild.rootfs.init` made: its init reaps orphans, and with it everything ends;
- /dev as a mount of ours: there is no device cgroup, so nodes are kept shut by ``nodev`` as in our own
  sandbox (`asyncbuild.rootfs.furniture`); in a /dev of the runtime's a RUN could open any that it makes;
- /proc, /sys, message queues, masks, credentials, capabilities, limits and the filter of system calls are
  the runtime's work.
"""

from __future__ import annotations

import errno
import os

from asyncbuild.rootfs import furniture, syscalls
from asyncbuild.rootfs.init import DEFAULT_CAPABILITIES, Step
from asyncbuild.rootfs.oci_seccomp import default_profile
from asyncbuild.rootfs.orders import Orders
from asyncbuild.rootfs.runspec import LIMITS

VERSION = "1.0.2"
"""Of the runtime specification."""

_CAPABILITIES = """
chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot
sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease
audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read
perfmon bpf checkpoint_restore
"""
"""In the order of their numbers (``linux/capability.h``)."""
_NO_LIMIT = 2**64 - 1
_SAFE = ["nosuid", "noexec", "nodev"]
_WORDS = {
    syscalls.MS_RDONLY: "ro",
    syscalls.MS_NOSUID: "nosuid",
    syscalls.MS_NODEV: "nodev",
    syscalls.MS_NOEXEC: "noexec",
}

Place = tuple[bytes, bytes, int]
"""A path in the root, what of the stage is shown there (absolute), and with which flags of mount(2).

They are those that it has in the stage: runc keeps them, crun has to be told.
"""


class Held:
    """What this process holds, and cannot give more of: permitted ``capabilities`` as bits, and whether it
    may set ``groups``.
    """

    def __init__(self, capabilities: int, *, groups: bool) -> None:
        self.capabilities = capabilities
        self.groups = groups


def configuration(
    orders: Orders, root: bytes, places: list[Place], held: Held, machine: str
) -> dict[str, object]:
    """The configuration of one RUN upon ``root``. ``places`` are bound, in this order, behind /proc, /sys
    and the queues; /dev, which is among them, and /sys, if it is, stand where theirs would.

    Raises `StepFailed` for words that are not UTF-8: JSON has no others.
    """
    with Step("writing the runtime's config.json"):
        settings: dict[str, object] = {
            "ociVersion": VERSION,
            "process": _process(orders, held),
            "root": {"path": os.fsdecode(root), "readonly": False},
            "hostname": _text(orders.hostname, "the host's name"),
            "mounts": _mounts(orders, {place[0]: place for place in places}),
            "linux": _linux(orders, machine),
        }
    return settings


def _process(orders: Orders, held: Held) -> dict[str, object]:
    user: dict[str, object] = {"uid": orders.uid, "gid": orders.gid, "umask": 0o022}
    if orders.groups and held.groups:
        user["additionalGids"] = orders.groups
    environment = [
        f"{_text(name, 'a variable')}={_text(value, os.fsdecode(name))}"
        for name, value in orders.environment.items()
    ]
    return {
        "terminal": False,
        "user": user,
        "args": [_text(word, "the command") for word in orders.argv],
        "env": environment,
        "cwd": _text(orders.working_directory, "the working directory"),
        "capabilities": _capabilities(orders, held),
        "rlimits": [_limit(*limit) for limit in orders.limits],
        "noNewPrivileges": orders.no_new_privileges,
    }


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ), what) from None


def _capabilities(orders: Orders, held: Held) -> dict[str, list[str]]:
    """A user who is not root has none, and no way to more of them than the default set."""
    names = [
        f"CAP_{name.upper()}"
        for number, name in enumerate(_CAPABILITIES.split())
        if held.capabilities >> number & 1 and (orders.privileged or number in DEFAULT_CAPABILITIES)
    ]
    own = names if orders.privileged or orders.uid == 0 else []
    passed_on = names if orders.privileged else []
    return {
        "bounding": names,
        "permitted": own,
        "effective": own,
        "inheritable": passed_on,
        "ambient": passed_on,
    }


def _limit(resource: int, soft: int, hard: int) -> dict[str, object]:
    name = next(name for name, number in LIMITS.items() if number == resource)
    values = [_NO_LIMIT if value < 0 else value for value in (soft, hard)]
    return {"type": f"RLIMIT_{name.upper()}", "soft": values[0], "hard": values[1]}


def _mounts(orders: Orders, places: dict[bytes, Place]) -> list[dict[str, object]]:
    read_only = [] if orders.privileged else ["ro"]
    found: list[dict[str, object]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _SAFE},
        _bind(places.pop(b"/dev")),
    ]
    if b"/sys" in places:
        found.append(_bind(places.pop(b"/sys")))
    else:
        options = [*_SAFE, *read_only]
        found.append(
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": options}
        )
    found.append(
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _SAFE}
    )
    return [*found, *map(_bind, places.values())]


def _bind(place: Place) -> dict[str, object]:
    path, source, flags = place
    return {
        "destination": _text(path, "a mount's target"),
        "type": "bind",
        "source": os.fsdecode(source),
        "options": ["rbind", *(word for flag, word in _WORDS.items() if flags & flag)],
    }


def _linux(orders: Orders, machine: str) -> dict[str, object]:
    kinds = ["mount", "ipc", "uts", *([] if orders.network else ["network"])]
    found: dict[str, object] = {"namespaces": [{"type": kind} for kind in kinds]}
    if not orders.privileged:
        found["seccomp"] = default_profile(machine)
        found["maskedPaths"] = [f"/{os.fsdecode(name)}" for name in furniture.MASKED]
        found["readonlyPaths"] = [f"/{os.fsdecode(name)}" for name in furniture.READ_ONLY]
    return found
