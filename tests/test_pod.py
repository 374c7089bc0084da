"""The tool in an ordinary pod: its own image in a container of runc, with what a cluster gives by default."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from support.commands import asyncbuild_here, context, environment, told
from support.own_image import OwnImage
from support.pod import Pod
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
DOCKERFILE = """\
FROM {base}
WORKDIR /app
COPY --chown=app:staff file link/ ./
COPY --from={base} /etc/passwd /other/passwd
ENV A=b
VOLUME /data
CMD ["cat", "file"]
"""


@pytest.fixture
def pod(pod_image: OwnImage, shm_path: Path) -> Pod:
    """A pod, with a directory of the test as /workspace, read-only."""
    (shm_path / "workspace").mkdir()
    volumes = {"/workspace": shm_path / "workspace"}
    return Pod(pod_image, shm_path, volumes, read_only_volumes=frozenset(volumes))


def test_the_pod_is_an_ordinary_one(pod: Pod) -> None:
    """Root with docker's capabilities under a filter; it may change roots, and neither mount nor unshare."""
    seen = pod.run("cat", "/proc/self/status")
    assert seen.returncode == 0, told(seen)
    status = dict(line.split(":\t") for line in seen.stdout.decode().splitlines())
    assert {status["CapEff"], status["CapPrm"], status["CapBnd"]} == {"00000000a80425fb"}
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert (status["Uid"].split()[0], status["Seccomp"], status["NoNewPrivs"]) == ("0", "2", "0")
    refused = (
        ("unshare", "--mount", "true"),
        ("unshare", "--user", "true"),
        ("unshare", "--pid", "--fork", "true"),
        ("mount", "-t", "tmpfs", "tmpfs", "/mnt"),
        ("umount", "/etc/hosts"),
        ("touch", "/workspace/file"),
        ("sh", "-c", "echo 1 > /proc/sys/kernel/panic"),
        ("sh", "-c", "test -s /proc/kcore || exit 3"),
    )
    assert [words for words in refused if pod.run(*words).returncode == 0] == []
    permitted = (
        ("chroot", "/", "true"),
        ("sh", "-c", "touch /file && chown 5:6 /file && rm /file"),
        ("mknod", "/null", "c", "1", "3"),
        ("setpriv", "--reuid=1000", "--clear-groups", "true"),
    )
    failed = [done for words in permitted if (done := pod.run(*words)).returncode != 0]
    assert failed == []


def test_a_read_only_root(pod: Pod) -> None:
    """Only its volumes can be written to."""
    held = dataclasses.replace(pod, read_only=True, tmpfs={"/var/lib/asyncbuild": 1 << 20})
    assert held.run("touch", "/file").returncode != 0
    assert held.run("touch", "/var/lib/asyncbuild/file").returncode == 0


def test_a_pod_ends_with_its_signal(pod: Pod) -> None:
    """SIGTERM reaches the program in the container."""
    script = "trap 'echo ending; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    with pod.started("sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.stdout.readline() == b"ending\n"
        assert process.wait() == 7


def test_copies_and_metadata(
    pod: Pod, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """A build without RUN gives in a pod what it gives outside; its root read-only as well."""
    files = {"file": "text\n", "link/target": "more\n"}
    where = context(shm_path / "workspace", DOCKERFILE.format(base=busybox_base), files)
    reference = f"{registry.host}/pod/copies:1"
    words = ["build", "-t", reference, "--progress", "quiet"]
    outside = asyncbuild_here(
        *words, "--store", shm_path / "store", where, env=environment(**EPOCH)
    )
    assert outside.returncode == 0, told(outside)
    held = dataclasses.replace(
        pod, read_only=True, tmpfs={"/var/lib/asyncbuild": 64 << 20, "/tmp": 1 << 20}
    )
    for place in (pod, held):
        inside = place.asyncbuild(*words, "/workspace/context", env=EPOCH)
        assert inside.returncode == 0, told(inside)
        assert inside.stdout == outside.stdout


def test_the_executor(pod: Pod, busybox_base: str, shm_path: Path) -> None:
    """Kaniko's name and place: a tar, no push, the digest in the termination log."""
    context(shm_path / "workspace", f"FROM {busybox_base}\nENV A=b\n")
    (shm_path / "out").mkdir()
    writing = dataclasses.replace(pod, volumes={**pod.volumes, "/out": shm_path / "out"})
    done = writing.run(
        "/kaniko/executor", "--context=/workspace/context", "--no-push",
        "--oci-layout-path=/out/layout", "--digest-file=/out/digest",
    )  # fmt: skip
    assert done.returncode == 0, told(done)
    index = json.loads((shm_path / "out/layout/index.json").read_text())
    assert index["manifests"][0]["digest"] == (shm_path / "out/digest").read_text().strip()


ESCAPING = """\
FROM {base}
RUN perl -e 'mkdir "/esc"; chroot "/esc" or die; chdir ".." for 1..64; chroot "." or die; print -e "/esc" ? "in" : "out", "\\n"; print join(" ", glob "/*"), "\\n"; exec "/bin/cat", "/proc/self/mountinfo"'
RUN umount / || echo refused; ls /proc/1/root/ || echo hidden
"""


def test_a_run_does_not_leave_its_root(
    pod: Pod, registry: DockerRegistry, debian_base: str, shm_path: Path
) -> None:
    """With CAP_SYS_ADMIN the root is mounted; the pod's filter has no pivot_root, and yet nothing of the pod is
    seen from a RUN, not even by one that climbs out of a root of its own making.
    """
    context(shm_path / "workspace", ESCAPING.format(base=debian_base))
    capabilities = (*pod.capabilities, "CAP_SYS_ADMIN")
    store = {"/var/lib/asyncbuild": 512 << 20}
    admin = dataclasses.replace(pod, capabilities=capabilities, tmpfs=store)
    words = ["build", "-t", f"{registry.host}/pod/escaping:1", "--isolation", "overlay"]
    done = admin.asyncbuild(*words, "--progress", "plain", "/workspace/context")
    assert done.returncode == 0, told(done)
    lines = [line.split("| ")[1] for line in done.stderr.decode().splitlines() if "| " in line]
    assert lines[0] == "in", told(done)
    assert not {"/kaniko", "/workspace"} & set(lines[1].split()), told(done)
    assert "/etc" in lines[1].split()
    mounts = {line.split()[4] for line in lines if " - " in line}
    assert "/" in mounts
    assert not [path for path in mounts if path.startswith(("/workspace", "/var", "/kaniko"))]
    assert {"refused", "hidden"} <= set(lines), told(done)


ALONE = """\
import os
from pathlib import Path
from asyncbuild.rootfs.ownroot import empty
from asyncbuild.rootfs.reserved import Reserved
before = set(os.listdir("/"))
empty(Reserved.of(["/refuge", "/workspace"]), forced=True)
assert not {"usr", "bin", "lib", "lib64", "opt", "kaniko"} & set(os.listdir("/")), os.listdir("/")
assert Path("/etc/hosts").exists() and os.listdir("/etc"), "what is mounted stays"
from asyncbuild.cli import main
sys.exit(main())
"""
ENTER = f"""\
import sys
from pathlib import Path
from asyncbuild.rootfs.ownroot import Surroundings, check_expendable
from asyncbuild.rootfs.refuge import make_refuge
check_expendable(Surroundings.look())
make_refuge(Path("/refuge")).enter({ALONE!r})
"""


def test_the_program_outlives_its_root(
    pod: Pod, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """From its refuge it builds when every other file of the container is gone: loader, libraries, modules;
    hosts are looked up, workers are started.
    """
    where = context(
        shm_path / "workspace",
        DOCKERFILE.format(base=busybox_base),
        {"file": "1", "link/target": "2"},
    )
    name = f"localhost:{registry.host.rpartition(':')[2]}/pod/alone:1"
    words = ["build", "-t", name, "--progress", "quiet"]
    outside = asyncbuild_here(
        *words, "--store", shm_path / "store", where, env=environment(**EPOCH)
    )
    python = "/opt/asyncbuild/bin/python"
    inside = pod.run(python, "-c", ENTER, *words, "/workspace/context", env=EPOCH)
    assert inside.returncode == 0, told(inside)
    assert inside.stdout == outside.stdout
