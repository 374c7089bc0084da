"""A build in ``/`` that does not come to its end: what is left of the container, and of the store."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest

from support.builds import store_faults
from support.commands import context, told
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

STORE = "/var/lib/asyncbuild"


@pytest.fixture
def pod(pod_image: OwnImage, shm_path: Path) -> Pod:
    """A pod without CAP_SYS_CHROOT whose store, context and notes are volumes."""
    places = {"/workspace": "workspace", STORE: "store", "/out": "out"}
    for name in places.values():
        (shm_path / name).mkdir()
    volumes = {place: shm_path / name for place, name in places.items()}
    return Pod(pod_image, shm_path, volumes, capabilities=WITHOUT_CHROOT)


def line(pod: Pod, registry: DockerRegistry, dockerfile: str, *more: str) -> list[str]:
    """The words that build a Dockerfile in place."""
    context(pod.volumes["/workspace"], dockerfile)
    words = ["build", "-t", f"{registry.host}/in-place/faults:1", "--isolation", "inplace", *more]
    return [*pod.image.config["Entrypoint"], *words, "--progress", "plain", "/workspace/context"]


SEEN = (
    "find / -xdev -not -name '*.pyc' -not -name __pycache__"
    r" \( -type d -printf '%p %y %m %U\n' -o -printf '%p %y %m %U %s %l\n' \)"
)
WATCHED = f"""
{SEEN} | sort > /out/before
"$@" &
builder=$!
trap "kill -TERM $builder" TERM
wait $builder
wait $builder
echo $? > /out/code
{SEEN} | sort > /out/after
cat /proc/[0-9]*/comm > /out/left
"""
"""Runs a build beside a shell that outlives it, and passes SIGTERM on."""
LEAVING = """\
FROM {base}
RUN rm -rf /home /etc/group && echo broken > /usr/bin/python3
RUN (setsid sleep 1000 &); (trap '' TERM INT; sleep 1000) & echo started; sleep 1000
"""


def test_the_container_is_put_back_after_a_signal(
    pod: Pod, registry: DockerRegistry, busybox_base: str
) -> None:
    """With --cleanup, to the last attribute; nothing that the RUN started goes on, nothing is pushed."""
    words = line(pod, registry, LEAVING.format(base=busybox_base), "--cleanup")
    ended, said = pod.signalled(signal.SIGTERM, "sh", "-c", WATCHED, "sh", *words)
    assert ended == 0, said
    out = pod.volumes["/out"]
    assert (out / "code").read_text() == "143\n", said
    assert (out / "before").read_text().splitlines() == (out / "after").read_text().splitlines()
    assert set((out / "left").read_text().split()) <= {"sh", "cat"}
    assert registry.call("GET", "/v2/in-place/faults/tags/list")[0] == 404
    assert store_faults(pod.volumes[STORE]) == []


MURDER = """\
FROM {base}
RUN echo made > /made
RUN (setsid sleep 1000 &); kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat); sleep 1000
"""
"""The parent of a RUN is the builder's helper; the helper's parent is the builder."""
SURVIVED = """
cp /proc/mounts /out/before
"$@" &
wait $!
echo $? > /out/code
while grep -q sleep /proc/[0-9]*/comm; do sleep 0.05; done
cp /proc/mounts /out/after
ls -d /.asyncbuild /made /usr/bin/dpkg > /out/seen
"""


def test_a_killed_builder_leaves_the_image(
    pod: Pod, registry: DockerRegistry, busybox_base: str
) -> None:
    """SIGKILL: nothing is put back, nothing goes on, no mount is left; another container uses the store."""
    words = line(pod, registry, MURDER.format(base=busybox_base), "--cleanup")
    done = pod.run("sh", "-c", SURVIVED.replace("grep", "/bin/grep"), "sh", *words)
    out = pod.volumes["/out"]
    assert (out / "code").read_text() == "137\n", told(done)
    assert (out / "before").read_text() == (out / "after").read_text()
    assert (out / "seen").read_text() == "/.asyncbuild\n/made\n"
    dockerfile = MURDER.format(base=busybox_base).rpartition("RUN")[0]
    (pod.volumes["/workspace"] / "context/Dockerfile").write_text(dockerfile)
    done = pod.run(*words)
    assert done.returncode == 0, told(done)
    assert store_faults(pod.volumes[STORE]) == []
    assert list((pod.volumes[STORE] / "tmp").iterdir()) == []


def test_no_room_for_the_program(pod: Pod, registry: DockerRegistry, busybox_base: str) -> None:
    """Its copy does not fit: 74, in one line, and nothing of the container is touched."""
    words = line(pod, registry, f"FROM {busybox_base}\nRUN true\n")
    small = dataclasses.replace(pod, root_size=64 << 20)
    done = small.run("sh", "-c", '"$@"; code=$?; dpkg --verify libc6 && exit $code', "sh", *words)
    assert done.returncode == 74, told(done)
    said = done.stderr.decode().strip().splitlines()
    assert said[0].endswith(
        "the program cannot be copied to /.asyncbuild/program: the disk is full"
    )
    assert len(said) == 2, said


NOISE = "FROM {base}\nCOPY noise /\nRUN true\n"


def test_no_room_for_the_image(pod: Pod, registry: DockerRegistry, busybox_base: str) -> None:
    """What ``/`` has no room for: 74, with the line and the place; nothing is pushed."""
    words = line(pod, registry, NOISE.format(base=busybox_base))
    with (pod.volumes["/workspace"] / "context/noise").open("wb") as file:
        file.write(bytes(range(256)) * (256 << 10))
    done = dataclasses.replace(pod, root_size=170 << 20).run(*words)
    assert done.returncode == 74, told(done)
    assert b"Dockerfile:3:1: " in done.stderr, told(done)
    assert b"unpacking the image to /: the disk is full" in done.stderr, told(done)


def test_no_room_to_put_it_back(pod: Pod, registry: DockerRegistry, busybox_base: str) -> None:
    """Where the container's own files cannot be kept, --cleanup fails before anything of them is touched."""
    words = line(pod, registry, f"FROM {busybox_base}\nRUN true\n", "--cleanup")
    script = f'{SEEN} | sort > /out/before; "$@"; code=$?; {SEEN} | sort > /out/after; exit $code'
    small = dataclasses.replace(pod, root_size=170 << 20)
    done = small.run("sh", "-c", script, "sh", *words)
    assert done.returncode == 74, told(done)
    assert b"copying the container's own files aside: the disk is full" in done.stderr, told(done)
    out = pod.volumes["/out"]
    assert (out / "before").read_text().splitlines() == (out / "after").read_text().splitlines()
