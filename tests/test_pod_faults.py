"""What goes wrong in a pod: no room, nothing to write to, memory that ends, an eviction."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from support.commands import context, told
from support.own_image import OwnImage
from support.pod import Pod
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

STORE = "/var/lib/asyncbuild"
MUCH = "RUN dd if=/dev/urandom of=/much bs=1M count=64\n"


@pytest.fixture
def pod(pod_image: OwnImage, shm_path: Path) -> Pod:
    """A pod with /workspace."""
    (shm_path / "workspace").mkdir()
    return Pod(pod_image, shm_path, {"/workspace": shm_path / "workspace"})


def words(registry: DockerRegistry, pod: Pod, dockerfile: str) -> list[str]:
    """The command line that builds a Dockerfile in the pod and pushes it."""
    context(pod.volumes["/workspace"], dockerfile)
    name = f"{registry.host}/faults/app:1"
    return ["build", "-t", name, "--progress", "plain", "/workspace/context"]


def test_no_room_for_the_base(pod: Pod, registry: DockerRegistry, busybox_base: str) -> None:
    """The store's disk is full: 74, with its place and what to do; nothing is pushed."""
    small = dataclasses.replace(pod, tmpfs={STORE: 1 << 20})
    done = small.asyncbuild(*words(registry, pod, f"FROM {busybox_base}\n{MUCH}"))
    assert done.returncode == 74, told(done)
    assert f"cannot write {STORE}/".encode() in done.stderr, told(done)
    assert b": the disk is full" in done.stderr, told(done)
    assert b"--store DIR" in done.stderr, told(done)
    assert registry.call("HEAD", "/v2/faults/app/manifests/1")[0] == 404


def test_no_room_for_what_a_command_writes(
    pod: Pod, registry: DockerRegistry, busybox_base: str
) -> None:
    """The command itself is told, and its code is the build's."""
    small = dataclasses.replace(pod, tmpfs={STORE: 24 << 20})
    done = small.asyncbuild(*words(registry, pod, f"FROM {busybox_base}\n{MUCH}"))
    assert done.returncode == 1, told(done)
    assert b"No space left on device" in done.stderr, told(done)
    assert registry.call("HEAD", "/v2/faults/app/manifests/1")[0] == 404


def test_a_read_only_store(pod: Pod, registry: DockerRegistry, busybox_base: str) -> None:
    """The store cannot be used: 74, and it is named."""
    held = dataclasses.replace(pod, read_only=True)
    done = held.asyncbuild(*words(registry, pod, f"FROM {busybox_base}\nRUN true\n"))
    assert done.returncode == 74, told(done)
    assert STORE.encode() in done.stderr, told(done)


def test_a_full_tmp(pod: Pod, registry: DockerRegistry, busybox_base: str) -> None:
    """A build needs no room in /tmp."""
    held = dataclasses.replace(pod, read_only=True, tmpfs={"/tmp": 4096, STORE: 64 << 20})
    fill = 'dd if=/dev/zero of=/tmp/full bs=4096 count=1; exec "$@"'
    line = words(registry, pod, f"FROM {busybox_base}\nRUN echo made > /made\nCOPY Dockerfile /\n")
    entry = pod.image.config["Entrypoint"]
    done = held.run("sh", "-c", fill, "sh", *entry, *line)
    assert done.returncode == 0, told(done)


def test_memory_ends(pod: Pod, registry: DockerRegistry, busybox_base: str) -> None:
    """A command that the kernel kills for the pod's limit: its code, and a word about memory."""
    eater = "RUN awk 'BEGIN { s = \"x\"; while (1) s = s s }'\n"
    held = dataclasses.replace(pod, memory=256 << 20)
    done = held.asyncbuild(*words(registry, pod, f"FROM {busybox_base}\n{eater}"))
    assert done.returncode == 137, told(done)
    assert b"memory" in done.stderr, told(done)


def test_an_eviction(pod: Pod, registry: DockerRegistry, busybox_base: str) -> None:
    """SIGTERM ends a build in the middle of its RUN, well within a pod's thirty seconds."""
    line = words(registry, pod, f"FROM {busybox_base}\nRUN echo started && sleep 1000\n")
    assert pod.evicted(*line) in (130, 143)
