"""An ordinary pod: a container of runc with what a cluster gives to root by default, and no more.

The root is the tool's own image under a fresh writable layer in memory (or read-only); the filter of system
calls, the capabilities and the masks are `pod_profile`'s. /etc/hosts, /etc/hostname, /etc/resolv.conf and
/dev/termination-log are mounted as kubelet does it, volumes where they are asked for. The network is this
machine's, so that the registries of tests are at 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import pod_profile
from support.own_image import OwnImage

_ENTER = """
set -e
root=$1 lowers=$2 size=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o "size=$size" tmpfs "$root"
mkdir "$root/upper" "$root/work" "$root/merged"
chmod 755 "$root/upper"
mount -t overlay -o "lowerdir=$lowers,upperdir=$root/upper,workdir=$root/work" overlay "$root/merged"
exec "$@"
"""


WITHOUT_CHROOT = tuple(name for name in pod_profile.CAPABILITIES if name != "CAP_SYS_CHROOT")
"""Capabilities of a pod which may not even change its root."""


_IDS = [{"containerID": 0, "hostID": 0, "size": 65536}]
_MAPPINGS = {"uidMappings": _IDS, "gidMappings": _IDS}
"""Of a pod with ``hostUsers: false``. A cluster gives each pod other numbers, and shows files by them; what root
may do in the namespace is the same with these.
"""


@dataclass(frozen=True, slots=True)
class Pod:
    """What its container is like. ``volumes`` are directories of this machine by where they are mounted; those
    in ``tmpfs`` are empty file systems of so many bytes. ``masked``: parts of /proc and /sys are hidden,
    or read-only. ``memory`` in bytes, 0 for no limit.
    """

    image: OwnImage
    scratch: Path
    volumes: Mapping[str, Path] = field(default_factory=dict)
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    read_only: bool = False
    read_only_volumes: frozenset[str] = frozenset()
    user: tuple[int, int] = (0, 0)
    capabilities: tuple[str, ...] = tuple(pod_profile.CAPABILITIES)
    namespaces: tuple[str, ...] = ("pid", "ipc", "uts", "mount")
    masked: bool = True
    memory: int = 0
    root_size: int = 2 << 30

    def run(
        self, *words: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, cwd: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program in a container of its own, to its end; ``env`` comes upon the image's variables."""
        with self.started(*words, env=env, cwd=cwd) as process:
            output, errors = process.communicate(stdin)
        return subprocess.CompletedProcess(words, process.returncode, output, errors)

    def asyncbuild(
        self, *words: str | Path, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the image's entry point."""
        return self.run(*self.image.config["Entrypoint"], *map(str, words), stdin=stdin, env=env)

    @contextlib.contextmanager
    def prepared(
        self, *words: str, env: Mapping[str, str] | None = None, cwd: str = ""
    ) -> Iterator[list[str]]:
        """The words that run a program in a container, once; it is ended at the end."""
        name = f"asyncbuild-pod-{uuid.uuid4().hex[:12]}"
        with tempfile.TemporaryDirectory(prefix="pod-", dir=self.scratch) as work:
            bundle = Path(work)
            (bundle / "root").mkdir()
            (bundle / "config.json").write_text(
                json.dumps(self._specification(bundle, words, env or {}, cwd))
            )
            runc = ["runc", "--root", str(bundle / "state")]
            enter = ["unshare", "--mount", "sh", "-c", _ENTER, "pod", str(bundle / "root")]
            enter += [":".join(map(str, self.image.lowers)), str(self.root_size)]
            try:
                yield [*enter, *runc, "run", "--bundle", str(bundle), name]
            finally:
                subprocess.run([*runc, "delete", "--force", name], capture_output=True, check=False)

    @contextlib.contextmanager
    def started(
        self, *words: str, env: Mapping[str, str] | None = None, cwd: str = ""
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The same, under way; the process is runc's, which passes signals on. It is ended at the end."""
        with self.prepared(*words, env=env, cwd=cwd) as command:
            pipe = subprocess.PIPE
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
                yield process

    def signalled(self, number: int, *words: str) -> tuple[int, str]:
        """How a program ends that gets a signal when a RUN has written ``started``: its exit code, and what it
        says from then on.
        """
        with self.started(*words) as process:
            assert process.stderr is not None
            seen = b""
            while b"| started" not in seen:
                piece = process.stderr.readline()
                assert piece, seen.decode()
                seen += piece
            process.send_signal(number)
            try:
                _, errors = process.communicate(timeout=100)
            except subprocess.TimeoutExpired:
                pytest.fail("it goes on")
            return process.returncode, errors.decode()

    def _specification(
        self, bundle: Path, words: tuple[str, ...], env: Mapping[str, str], cwd: str
    ) -> dict[str, Any]:
        config = self.image.config
        variables = [*config["Env"], "HOSTNAME=pod", "HOME=/root"]
        variables += [f"{name}={value}" for name, value in env.items()]
        held = {kind: list(self.capabilities) for kind in ("bounding", "effective", "permitted")}
        if self.user[0] != 0:
            held |= {"effective": [], "permitted": []}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": self.user[0], "gid": self.user[1]},
                "args": list(words),
                "env": variables,
                "cwd": cwd or config.get("WorkingDir") or "/",
                "capabilities": held,
            },
            "root": {"path": str(bundle / "root/merged"), "readonly": self.read_only},
            **({"hostname": "pod"} if "uts" in self.namespaces else {}),
            "mounts": [
                *_system_mounts(own_network="user" not in self.namespaces),
                *_kubelet_mounts(bundle),
                *self._volume_mounts(),
            ],
            "linux": {
                "cgroupsPath": f"/asyncbuild-tests/{bundle.name}",
                "resources": {"memory": {"limit": self.memory}} if self.memory else {},
                "namespaces": [{"type": kind} for kind in self.namespaces],
                **(_MAPPINGS if "user" in self.namespaces else {}),
                "seccomp": pod_profile.system_calls(list(self.capabilities)),
                "maskedPaths": pod_profile.MASKED if self.masked else [],
                "readonlyPaths": pod_profile.READ_ONLY if self.masked else [],
            },
        }

    def _volume_mounts(self) -> list[dict[str, Any]]:
        bound = [
            _bind(path, place, read_only=place in self.read_only_volumes)
            for place, path in self.volumes.items()
        ]
        empty = [
            _mount("tmpfs", place, f"size={size}", "mode=1777")
            for place, size in self.tmpfs.items()
        ]
        return [*empty, *bound]


def _mount(kind: str, place: str, *options: str) -> dict[str, Any]:
    return {"type": kind, "source": kind, "destination": place, "options": list(options)}


def _bind(path: Path, place: str, *, read_only: bool = False) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"type": "bind", "source": str(path), "destination": place, "options": options}


def _system_mounts(*, own_network: bool) -> list[dict[str, Any]]:
    """``own_network``: the network is the user namespace's; to others the kernel gives no sysfs."""
    quiet = ("nosuid", "noexec", "nodev")
    system = _mount("sysfs", "/sys", *quiet, "ro")
    groups = _mount("cgroup", "/sys/fs/cgroup", *quiet, "relatime", "ro")
    return [
        _mount("proc", "/proc", *quiet),
        _mount("tmpfs", "/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"
        ),
        _mount("mqueue", "/dev/mqueue", *quiet),
        _mount("tmpfs", "/dev/shm", *quiet, "mode=1777", "size=65536k"),
        *([system, groups] if own_network else [_bind(Path("/sys"), "/sys", read_only=True)]),
    ]


def _kubelet_mounts(bundle: Path) -> list[dict[str, Any]]:
    resolver = Path("/etc/resolv.conf")
    files = {
        "/etc/hosts": b"127.0.0.1\tlocalhost pod\n",
        "/etc/hostname": b"pod\n",
        "/etc/resolv.conf": resolver.read_bytes() if resolver.exists() else b"",
        "/dev/termination-log": b"",
    }
    mounts = []
    for place, data in files.items():
        path = bundle / os.path.basename(place)
        path.write_bytes(data)
        mounts.append(_bind(path, place))
    return mounts
