"""asyncbuild doctor: what a place permits, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asyncbuild.cli.doctor import findings
from asyncbuild.rootfs.isolation import Ability, Place
from support.commands import COMMAND, asyncbuild, asyncbuild_here, context, told
from support.isolated import POD
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.registry import DockerRegistry
from support.users import User


def test_root_is_told_overlay(shm_path: Path) -> None:
    """These tests run as root with every capability."""
    done = asyncbuild_here("doctor", "--store", shm_path / "store")
    assert done.returncode == 0
    assert done.stdout.startswith(b"RUN is executed with: overlay\n")
    assert b"chroot    possible\n" in done.stdout
    assert (
        b"rootless  not possible: user: it is for ordinary users, and this is root\n" in done.stdout
    )


def test_a_pod_is_told_what_it_lacks(shm_path: Path) -> None:
    """With docker's capabilities alone there are no mounts; the answer says what refused them."""
    words = ("doctor", "--format", "json", "--store", shm_path / "store")
    done = asyncbuild(*words, before=POD)
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["sys_admin"] is False
    assert found["backends"]["chroot"]["possible"] is True
    assert found["backends"]["overlay"]["possible"] is False
    assert "not permitted" in found["backends"]["overlay"]["missing"]["overlay"]
    assert any("CAP_SYS_ADMIN" in text for text in found["backends"]["overlay"]["better"])
    assert found["auto"] == "chroot"


POD_ROOT = """\
RUN is executed with: chroot

  overlay   not possible: overlay: unshare: Operation not permitted; pid-namespace: unshare: Operation not permitted
            it needs CAP_SYS_ADMIN, and a store on a file system that overlayfs can write to (no overlay)
  rootless  not possible: user: it is for ordinary users, and this is root
  chroot    possible, but: RUN has no /proc, and no namespaces of its own; --network=none is refused
            it would be better with CAP_SYS_ADMIN
  inplace   possible, if asked for: it replaces everything in /

user 0, without CAP_SYS_ADMIN (capabilities 00000000a80425fb)
seccomp: filtered; no new privileges: no
"""
IN_PLACE = """\
RUN is executed with: none
--isolation inplace can execute it, in a container that is thrown away afterwards
COPY, ADD and metadata need none of what is missing
"""
NO_CHROOT = """\
  chroot    not possible: chroot: Operation not permitted
            it needs root with CAP_SYS_CHROOT
  inplace   possible, if asked for: it replaces everything in /
"""


@pytest.mark.integration
def test_root_of_an_ordinary_pod(pod_image: OwnImage, shm_path: Path) -> None:
    """The backend, why no better one, and what would give it; it is the one that a build takes."""
    done = Pod(pod_image, shm_path).asyncbuild("doctor")
    assert done.returncode == 0, told(done)
    assert done.stdout.decode().startswith(POD_ROOT), told(done)
    assert b"--memory and --cpus: no control group can be made here: Read-only file" in done.stdout


@pytest.mark.integration
def test_root_of_a_pod_that_may_not_chroot(pod_image: OwnImage, shm_path: Path) -> None:
    """Nothing is taken by itself, and what can be asked for is named at once. Where nothing can be written
    to ``/``, or the pod gives no capability at all, there is no such way.
    """
    pod = Pod(pod_image, shm_path, capabilities=WITHOUT_CHROOT)
    done = pod.asyncbuild("doctor")
    assert done.returncode == 77, told(done)
    assert done.stdout.decode().startswith(IN_PLACE), told(done)
    assert NO_CHROOT in done.stdout.decode(), told(done)
    held = replace(pod, read_only=True, tmpfs={"/var/lib/asyncbuild": 1 << 24})
    done = held.asyncbuild("doctor")
    text = done.stdout.decode()
    assert done.returncode == 77, told(done)
    assert text.startswith("RUN is executed with: none\nCOPY, ADD and metadata"), text
    assert ": Read-only file system\n            it needs a root file system that can be" in text
    done = replace(pod, capabilities=()).asyncbuild("doctor")
    text = done.stdout.decode()
    assert done.returncode == 77, told(done)
    assert "inplace   not possible: owners: Operation not permitted\n" in text
    assert text.count("it needs root with CAP_CHOWN, CAP_SETUID and CAP_SETGID\n") == 3


@pytest.mark.integration
def test_root_with_sys_admin_whose_store_is_on_an_overlay(
    pod_image: OwnImage, shm_path: Path
) -> None:
    """A container's own root is no place for a store: it is said, and a volume is the remedy."""
    pod = Pod(pod_image, shm_path)
    pod = replace(pod, capabilities=(*pod.capabilities, "CAP_SYS_ADMIN"))
    done = pod.asyncbuild("doctor")
    text = done.stdout.decode()
    assert text.startswith("RUN is executed with: chroot\n"), told(done)
    assert "overlay   not possible: overlay: mounting an overlay: Invalid argument\n" in text
    assert (
        "it needs a store on a file system that overlayfs can write to: a volume, not the" in text
    )
    (shm_path / "store").mkdir()
    with_volume = replace(pod, volumes={"/var/lib/asyncbuild": shm_path / "store"})
    done = with_volume.asyncbuild("doctor")
    assert done.stdout.startswith(b"RUN is executed with: overlay\n"), told(done)


def test_where_nothing_is_possible_the_exit_code_says_so(shm_path: Path) -> None:
    """A place that refuses everything."""
    place = Place(1000, refused=dict.fromkeys(Ability, "Operation not permitted"))
    found = findings(place, "no control groups", {})
    assert found["auto"] == "none"
    assert not any(item["possible"] for item in found["backends"].values())


@pytest.mark.parametrize("subordinate", [True, False])
def test_a_user_is_told_about_ids(shm_path: Path, *, subordinate: bool) -> None:
    """Rootless is possible; with a single id its limits are said, and what would lift them."""
    user = User.below(shm_path, subordinate=subordinate)
    done = user.asyncbuild("doctor")
    assert done.returncode == 0, told(done)
    text = done.stdout.decode()
    assert text.startswith("RUN is executed with: rootless\n")
    limits = "rootless  possible, but: a single id: RUN knows root alone, and cannot give files to others"
    assert (limits in text) is not subordinate
    assert ("it would be better with lines for this user in /etc/subuid" in text) is not subordinate
    assert (": no line in /etc/subuid or /etc/subgid" in text) is not subordinate
    assert "--memory and --cpus: no control group can be made here: Permission denied" in text


def test_newuidmap_that_may_not(shm_path: Path) -> None:
    """The lines and the programs are there, and without their set-user-id bits they are of no use."""
    user = User.below(shm_path)
    done = user.run("setpriv", "--no-new-privs", *COMMAND, "doctor", "--format", "json")
    found = json.loads(done.stdout)
    assert found["subordinate_ids"]["users"] == 65_536
    assert found["abilities"]["subordinate-ids"] == "newuidmap or newgidmap refused"
    assert found["backends"]["rootless"]["possible"] is True
    assert "set-user-id bits" in found["backends"]["rootless"]["better"][0]


@pytest.mark.integration
def test_where_user_namespaces_are_refused(
    pod_image: OwnImage, shm_path: Path, registry: DockerRegistry, busybox_base: str
) -> None:
    """A pod's ordinary user: doctor says none and why; COPY is built, RUN is refused with what would help,
    before anything is fetched.
    """
    (shm_path / "workspace").mkdir()
    where = context(
        shm_path / "workspace", f"FROM {busybox_base}\nCOPY --chown=app Dockerfile /x\n"
    )
    pod = Pod(
        pod_image, shm_path, {"/workspace": shm_path / "workspace"}, {"/home": 64 << 20}, user=(1000, 1000)
    )  # fmt: skip
    env = {"HOME": "/home"}
    done = pod.asyncbuild("doctor", env=env)
    assert done.returncode == 77, told(done)
    text = done.stdout.decode()
    assert text.startswith("RUN is executed with: none\nCOPY, ADD and metadata need none of what")
    assert "not possible: user-namespace: unshare: Operation not permitted" in text
    assert "inplace   not possible: user: it needs root, and this is not\n" in text
    assert "let this user unshare user namespaces" in text
    name = f"{registry.host}/doctor/none:1"
    done = pod.asyncbuild("build", "-t", name, "/workspace/context", env=env)
    assert done.returncode == 0, told(done)
    (where / "Dockerfile").write_text(f"FROM {busybox_base}\nRUN true\n")
    mark = registry.mark()
    done = pod.asyncbuild("build", "-t", name, "/workspace/context", env=env)
    assert done.returncode == 77, told(done)
    said = done.stderr.decode()
    assert "Dockerfile:2" in said
    assert "user namespaces are refused" in said
    assert "a seccomp filter is in effect" in said
    assert "--isolation chroot" in said
    assert registry.requests(mark) == []
