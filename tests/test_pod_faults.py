"""What goes wrong in a pod, by chroot and in place: no room, nothing to write to, memory that ends, signals."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.commands import context, told
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

STORE = "/var/lib/asyncbuild"
MUCH = "RUN dd if=/dev/urandom of=/much bs=1M count=64\n"
EATER = "RUN awk 'BEGIN { s = \"x\"; while (1) s = s s }'\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """A pod with /workspace, and how it executes RUN."""

    pod: Pod
    registry: DockerRegistry
    base: str
    way: str

    def words(self, run: str) -> list[str]:
        """The command line that builds a Dockerfile upon the base in the pod and pushes it."""
        context(self.pod.volumes["/workspace"], f"FROM {self.base}\n{run}")
        words = [
            "build",
            "-t",
            f"{self.registry.host}/faults/{self.way}:1",
            "--isolation",
            self.way,
        ]
        return [
            *self.pod.image.config["Entrypoint"],
            *words,
            "--progress",
            "plain",
            "/workspace/context",
        ]

    def build(self, run: str, **other: object) -> subprocess.CompletedProcess[bytes]:
        """Build in a pod that is as said."""
        return dataclasses.replace(self.pod, **other).run(*self.words(run))  # type: ignore[arg-type]

    def pushed(self) -> bool:
        """Whether the image is in the registry."""
        return self.registry.call("HEAD", f"/v2/faults/{self.way}/manifests/1")[0] == 200


@pytest.fixture(params=["chroot", "inplace"])
def scene(
    request: pytest.FixtureRequest,
    pod_image: OwnImage,
    registry: DockerRegistry,
    busybox_base: str,
    shm_path: Path,
) -> Scene:
    """One for each way."""
    (shm_path / "workspace").mkdir()
    pod = Pod(pod_image, shm_path, {"/workspace": shm_path / "workspace"})
    if request.param == "inplace":
        pod = dataclasses.replace(pod, capabilities=WITHOUT_CHROOT)
    return Scene(pod, registry, busybox_base, request.param)


def test_no_room_for_the_base(scene: Scene) -> None:
    """The store's disk is full: 74, with its place and what to do; nothing is pushed.

    Whichever write meets the full disk first says so: that of a layer's file, or that of the store's catalogue.
    """
    done = scene.build(MUCH, tmpfs={STORE: 1 << 20})
    assert done.returncode == 74, told(done)
    assert re.search(
        rf"cannot write {STORE}/\S+: the disk is full|the disk that holds the store {STORE} is full",
        done.stderr.decode(),
    ), told(done)
    assert b"--store DIR" in done.stderr, told(done)
    assert not scene.pushed()


LIMITED: Mapping[str, Mapping[str, object]] = {
    "chroot": {"tmpfs": {STORE: 24 << 20}},
    "inplace": {"root_size": 170 << 20},  # of which the copy of the program is most
}


def test_no_room_for_what_a_command_writes(scene: Scene) -> None:
    """The command itself is told, and its code is the build's."""
    done = scene.build(MUCH, **LIMITED[scene.way])
    assert done.returncode == 1, told(done)
    assert b"No space left on device" in done.stderr, told(done)
    assert not scene.pushed()


def test_a_read_only_store(scene: Scene) -> None:
    """The store cannot be used: 74, and it is named."""
    (scene.pod.scratch / "store").mkdir()
    volumes = {**scene.pod.volumes, STORE: scene.pod.scratch / "store"}
    done = scene.build("RUN true\n", volumes=volumes, read_only_volumes=frozenset({STORE}))
    assert done.returncode == 74, told(done)
    assert f"the store {STORE} is on a read-only file system".encode() in done.stderr, told(done)


def test_a_full_tmp(scene: Scene) -> None:
    """A build needs no room in /tmp."""
    fill = 'dd if=/dev/zero of=/tmp/full bs=4096 count=1; exec "$@"'
    words = scene.words("RUN echo made > /made\nCOPY Dockerfile /\n")
    held = dataclasses.replace(scene.pod, tmpfs={"/tmp": 4096, STORE: 64 << 20})
    if scene.way == "chroot":
        held = dataclasses.replace(held, read_only=True)
    done = held.run("sh", "-c", fill, "sh", *words)
    assert done.returncode == 0, told(done)


def test_memory_ends(scene: Scene) -> None:
    """A command that the kernel kills for the pod's limit: its code, and a word about memory."""
    done = scene.build(EATER, memory=512 << 20)
    assert done.returncode == 137, told(done)
    assert b"was there enough memory?" in done.stderr, told(done)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_an_eviction(scene: Scene, number: signal.Signals, code: int) -> None:
    """A signal ends a build in the middle of its RUN, well within a pod's thirty seconds."""
    words = scene.words("RUN (setsid sleep 1000 &); echo started && sleep 1000\n")
    ended, said = scene.pod.signalled(number, *words)
    assert ended == code, said
    assert said.rstrip().endswith(f"asyncbuild: interrupted by {number.name}")
    assert not scene.pushed()


def test_an_eviction_before_the_build(scene: Scene) -> None:
    """SIGTERM is heard as soon as there is a program, also by the first process of a container: here while
    it waits for its context.
    """
    words = ["--context=tar://stdin", "--no-push", f"--isolation={scene.way}"]
    with scene.pod.started("/kaniko/executor", *words) as process:
        assert process.stdin is not None
        process.stdin.write(bytes(1 << 20))  # more than a pipe holds: it has begun to read
        process.stdin.flush()
        process.terminate()
        assert process.wait(100) == 143
        assert process.stderr is not None
        assert process.stderr.read().endswith(b"asyncbuild: interrupted by SIGTERM\n")
