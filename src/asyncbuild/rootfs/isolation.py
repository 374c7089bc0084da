"""How a RUN is set apart from this machine: what there is, what each way needs, what this place permits.

`probe` finds out by trying, in child processes: the answer of the kernel says more than capabilities,
seccomp profiles, AppArmor and sysctls together. `choose` is pure: it takes the best that a `Place` permits,
or says what stands in the way of the one that was asked for.
"""

from __future__ import annotations

import marshal
import os
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from asyncbuild.errors import IsolationError
from asyncbuild.records import dataclass, field
from asyncbuild.rootfs import probing
from asyncbuild.rootfs.interpreter import python
from asyncbuild.rootfs.subordinates import Subordinates, find_subordinates


class Isolation(StrEnum):
    """A way to execute RUN, the best first. AUTO takes the best that the place permits."""

    AUTO = "auto"
    OVERLAY = "overlay"
    ROOTLESS = "rootless"
    CHROOT = "chroot"
    INPLACE = "inplace"
    NONE = "none"


class Ability(StrEnum):
    """What a place may permit; `asyncbuild.rootfs.probing` tries each."""

    OVERLAY = "overlay"
    PID_NAMESPACE = "pid-namespace"
    NETWORK_NAMESPACE = "network-namespace"
    USER_NAMESPACE = "user-namespace"
    USER_OVERLAY = "user-overlay"
    FUSE_OVERLAY = "fuse-overlay"
    USER_PROC = "user-proc"
    SUBORDINATE_IDS = "subordinate-ids"
    USER_CHROOT = "user-chroot"
    CHROOT = "chroot"
    DEVICES = "devices"
    OWNERS = "owners"
    OWN_ROOT = "own-root"
    OPENAT2 = "openat2"


NEEDS: Mapping[Isolation, tuple[Ability, ...]] = {
    Isolation.OVERLAY: (Ability.OVERLAY, Ability.PID_NAMESPACE, Ability.OWNERS),
    Isolation.ROOTLESS: (Ability.USER_NAMESPACE, Ability.USER_OVERLAY, Ability.USER_PROC),
    Isolation.CHROOT: (Ability.CHROOT, Ability.OWNERS),
    Isolation.INPLACE: (Ability.OWN_ROOT, Ability.OWNERS),
    Isolation.NONE: (),
}
"""What each way cannot do without."""

SUBSTITUTES: Mapping[Isolation, Mapping[Ability, Ability]] = {
    Isolation.ROOTLESS: {Ability.USER_OVERLAY: Ability.FUSE_OVERLAY},
    Isolation.CHROOT: {
        Ability.CHROOT: Ability.USER_CHROOT,
        Ability.OWNERS: Ability.USER_CHROOT,
    },
}
"""What does instead of what is missing, if not as well."""

WISHES: Mapping[Isolation, Mapping[Ability, str]] = {
    Isolation.ROOTLESS: {
        Ability.USER_OVERLAY: "fuse-overlayfs shows layers: slower, and a set-id file or directory that RUN"
        " changes loses the bit",
        Ability.SUBORDINATE_IDS: "a single id: RUN knows root alone, and cannot give files to others",
    },
    Isolation.CHROOT: {
        Ability.PID_NAMESPACE: "RUN has no /proc, and no namespaces of its own",
        Ability.DEVICES: "/dev/null is an empty file in RUN",
        Ability.NETWORK_NAMESPACE: "--network=none is refused",
    },
}
"""What each way goes without, and how that is felt."""

BETTER: Mapping[Ability, str] = {
    Ability.OVERLAY: "CAP_SYS_ADMIN, and a store on a file system that overlayfs can write to (no overlay)",
    Ability.PID_NAMESPACE: "CAP_SYS_ADMIN",
    Ability.USER_NAMESPACE: "a kernel, a seccomp profile and an AppArmor profile that let this user unshare"
    " user namespaces",
    Ability.USER_OVERLAY: "Linux 5.11 or later, and a store on a file system with user extended attributes",
    Ability.FUSE_OVERLAY: "fuse-overlayfs (a Debian package), and a /dev/fuse that this user may open",
    Ability.USER_PROC: "a /proc that nothing covers (procMount: Unmasked in Kubernetes)",
    Ability.SUBORDINATE_IDS: "lines for this user in /etc/subuid and /etc/subgid, and newuidmap and"
    " newgidmap (Debian package uidmap) with their set-user-id bits in effect",
    Ability.USER_CHROOT: "subordinate ids",
    Ability.CHROOT: "root with CAP_SYS_CHROOT",
    Ability.DEVICES: "CAP_MKNOD, and a store on a file system that is not mounted nodev",
    Ability.NETWORK_NAMESPACE: "CAP_SYS_ADMIN",
    Ability.OWNERS: "root with CAP_CHOWN, CAP_SETUID and CAP_SETGID",
    Ability.OWN_ROOT: "a root file system that can be written to",
}
"""Who lacks an ability needs this."""
_A_STORE = (
    "a store on a file system that overlayfs can write to: a volume, not the root of a container"
)
"""Who has CAP_SYS_ADMIN and lacks `Ability.OVERLAY` needs this."""

SYSCTLS = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
)
"""What may forbid user namespaces (Debian, Ubuntu, everyone), below /proc/sys."""

_CAP_SYS_ADMIN = 21
_PATIENCE = 20.0
"""Seconds that probing may take; it takes hundredths of one."""

_BOOT = """\
import sys
package = type(sys)("asyncbuild")
package.__path__ = [sys.argv[1]]
sys.modules["asyncbuild"] = package
from asyncbuild.rootfs.probing import main
main()
"""


@dataclass(frozen=True, slots=True)
class Place:
    """What was found. ``refused`` has, for each ability that is missing, what the system said; what was not
    tried is in neither. ``capabilities`` is the effective set as bits; ``seccomp`` 0 for no filter, 2 for
    one; ``sysctls`` by their names, those that exist. ``container``: it looks like one. ``objection`` is
    what speaks against a build in ``/``.
    """

    uid: int
    capabilities: int = 0
    seccomp: int = 0
    no_new_privileges: bool = False
    container: bool = False
    able: frozenset[Ability] = frozenset()
    refused: Mapping[Ability, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    subordinates: Subordinates = field(default_factory=Subordinates)
    objection: str = ""

    @property
    def has_sys_admin(self) -> bool:
        """Whether CAP_SYS_ADMIN is effective (in whatever user namespace this is)."""
        return bool(self.capabilities >> _CAP_SYS_ADMIN & 1)

    def permits(self, isolation: Isolation) -> bool:
        """Whether everything that this way needs was found."""
        return isolation is not Isolation.AUTO and not self.missing(isolation)

    def missing(self, isolation: Isolation) -> dict[Ability, str]:
        """What this way needs and the place refuses, with what the system said; and what would do."""
        instead = SUBSTITUTES.get(isolation, {})
        lacking = [
            need
            for need in NEEDS[isolation]
            if need not in self.able and instead.get(need) not in self.able
        ]
        others = [instead[need] for need in lacking if need in instead]
        lacking += [item for item in others if self.uid or item is not Ability.USER_CHROOT]
        return {need: self.refused.get(need, "not tried") for need in lacking}

    def better(self, lacking: Iterable[Ability]) -> tuple[str, ...]:
        """What the place would have to give for these, each thing once."""
        advised = {**BETTER, Ability.OVERLAY: _A_STORE} if self.has_sys_admin else BETTER
        texts = dict.fromkeys(advised[need] for need in lacking if need in advised)
        return tuple(
            text
            for text in texts
            if not any(other != text and other.startswith(text) for other in texts)
        )

    def wishes(self, isolation: Isolation) -> dict[Ability, str]:
        """What this way goes without here, and how that is felt."""
        wishes = WISHES.get(isolation, {})
        return {wish: text for wish, text in wishes.items() if wish in self.refused}


_AUTOMATIC = (Isolation.OVERLAY, Isolation.ROOTLESS, Isolation.CHROOT)
"""What AUTO may take. Never INPLACE: it writes over the machine, and so must be asked for."""


def choose(
    place: Place, wanted: Isolation, known: Iterable[Isolation] = tuple(Isolation)
) -> Isolation:
    """The way to execute RUN in ``place``. AUTO finds NONE where there is no way.

    ``known`` are the ways that the caller can go. Raises `IsolationError` if ``wanted`` is not possible.
    """
    if wanted is Isolation.AUTO:
        possible = (item for item in _AUTOMATIC if item in known and place.permits(item))
        return next(possible, Isolation.NONE)
    if wanted not in known:
        raise IsolationError(f"--isolation {wanted}: this version cannot")
    missing = place.missing(wanted)
    if missing:
        said = "; ".join(f"{need}: {text}" for need, text in missing.items())
        raise IsolationError(
            f"--isolation {wanted} is not possible here: {said}",
            hint=f"it needs {' and '.join(place.better(missing))}; see asyncbuild doctor",
        )
    return wanted


def no_way(place: Place) -> IsolationError:
    """Why no RUN can be executed in ``place``."""
    said = [
        f"{way} ({', '.join(f'{need}: {text}' for need, text in place.missing(way).items())})"
        for way in _AUTOMATIC
    ]
    hint = "COPY, ADD and metadata need none of this; asyncbuild doctor says what would help"
    if place.permits(Isolation.INPLACE) and not place.objection:
        hint = f"--isolation inplace can: it replaces everything in this container's /; {hint}"
    return IsolationError(f"RUN cannot be executed here: no {', no '.join(said)}", hint=hint)


def namespace_obstacles() -> tuple[str, ...]:
    """What may forbid this user a namespace, as far as the system shows it: a filter, and settings."""
    found = _sysctls()
    forbidding = {SYSCTLS[0]: "0", SYSCTLS[1]: "1", SYSCTLS[2]: "0"}
    names = {name.replace("/", "."): value for name, value in forbidding.items()}
    said = [f"{name} = {value}" for name, value in names.items() if found.get(name) == value]
    filtered = _status().get("Seccomp") == "2"
    return (*said, *(["a seccomp filter is in effect"] if filtered else []))


def probe(directory: Path, only: Iterable[Ability] = ()) -> Place:
    """Find out what this place permits; ``directory`` is empty, on the store's file system, and left full.

    ``only`` some abilities may be tried. Blocks for some hundredths of a second.
    """
    from asyncbuild.rootfs.ownroot import MARKS, Surroundings  # noqa: PLC0415 - only to probe

    tried = tuple(only) or tuple(Ability)
    answers = _attempts(directory, tried)
    status = _status()
    return Place(
        uid=os.geteuid(),
        capabilities=int(status.get("CapEff", "0"), 16),
        seccomp=int(status.get("Seccomp", "0")),
        no_new_privileges=status.get("NoNewPrivs", "0") == "1",
        container=any(map(os.path.exists, MARKS)),
        able=frozenset(item for item in tried if answers[item] is None),
        refused={item: text for item in tried if (text := answers[item]) is not None},
        sysctls=_sysctls(),
        subordinates=find_subordinates(),
        objection=Surroundings.look().objection(),
    )


def _attempts(directory: Path, tried: tuple[Ability, ...]) -> dict[Ability, str | None]:
    """What refused each of the attempts; None for those that worked."""
    package = str(Path(probing.__file__).parent.parent)
    command = [*python(), "-I", "-S", "-c", _BOOT, package, str(directory), *tried]
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            start_new_session=True,
            env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        )
        answers = marshal.loads(done.stdout)  # noqa: S302 - our own child's
    except (OSError, EOFError, ValueError, subprocess.TimeoutExpired) as error:
        return dict.fromkeys(tried, f"the probe failed: {error}")
    return {item: answers.get(item, "the probe did not try it") for item in tried}


def _status() -> dict[str, str]:
    """What the kernel says of this thread: capabilities (hexadecimal), seccomp, no_new_privs."""
    try:
        lines = Path("/proc/thread-self/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _sysctls() -> dict[str, str]:
    found = {}
    for name in SYSCTLS:
        with suppress(OSError):
            found[name.replace("/", ".")] = Path("/proc/sys", name).read_text().strip()
    return found
