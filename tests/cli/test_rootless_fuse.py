"""Where the kernel mounts no overlay for a user, fuse-overlayfs does; where that is not possible, it is said."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from support import refusing
from support.commands import context, told
from support.registry import DockerRegistry
from support.users import User

pytestmark = pytest.mark.integration

OLD_KERNEL = (sys.executable, refusing.__file__, "overlay")


@pytest.fixture(params=[True, False], ids=["subordinate", "single"])
def user(shm_path: Path, request: pytest.FixtureRequest) -> User:
    """A user of a kernel without overlays in user namespaces, with ids and without."""
    user = User.below(shm_path, subordinate=request.param)
    return dataclasses.replace(user, kernel=OLD_KERNEL, fuse=True)


def test_doctor_and_build(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """Doctor says what shows the layers, and what that costs; RUN works, and what runs at its end is flushed."""
    found = json.loads(user.asyncbuild("doctor", "--format", "json").stdout)
    assert found["auto"] == "rootless"
    assert found["abilities"]["user-overlay"].endswith("Operation not permitted")
    assert found["abilities"]["fuse-overlay"] is None
    assert "fuse-overlayfs shows layers" in found["backends"]["rootless"]["without"]["user-overlay"]
    script = "(sleep 1000 &); dd if=/dev/urandom of=/much bs=1M count=8; grep -c fuse /proc/mounts; ls -a /"
    place = context(
        user.directory,
        f"FROM {busybox_base}\nRUN {script}\nRUN stat -c %s /much; ls -A / | grep -c wh\n",
    )
    name = f"{registry.host}/rootless/fuse:1"
    done = user.asyncbuild("build", "-t", name, "--progress", "plain", place)
    text = done.stderr.decode()
    assert done.returncode == 1, told(done)  # grep counted none
    assert "| 8388608\n" in text
    assert re.search(r"\| 0$", text, re.MULTILINE), text


REASON = "failed to open /dev/fuse: Permission denied"


@pytest.mark.parametrize("user", [True], indirect=True)
def test_chroot_is_left(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """Without the device who has many ids may still change roots in the namespace: doctor says so, it is so."""
    user = dataclasses.replace(user, fuse=False)
    done = user.asyncbuild("doctor")
    assert done.returncode == 0, told(done)
    assert done.stdout.startswith(b"RUN is executed with: chroot\n")
    dockerfile = f"FROM {busybox_base}\nRUN touch /x && chown 7:8 /x; ls /proc | wc -l\n"
    words = ["build", "-t", f"{registry.host}/rootless/left:1", "--progress", "plain"]
    done = user.asyncbuild(*words, context(user.directory, dockerfile))
    assert done.returncode == 0, told(done)
    assert re.search(rb"\| 0$", done.stderr, re.MULTILINE), told(done)


@pytest.mark.parametrize("user", [False], indirect=True)
def test_nothing_is_left(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """With a single id: doctor and the failing RUN say what all ways lack; what has no RUN is built."""
    user = dataclasses.replace(user, fuse=False)
    done = user.asyncbuild("doctor")
    assert done.returncode == 77, told(done)
    text = done.stdout.decode()
    assert text.startswith("RUN is executed with: none\n")
    assert REASON in text
    assert "it needs fuse-overlayfs (a Debian package), and a /dev/fuse" in text
    assert "it needs subordinate ids" in text
    place = context(user.directory, f"FROM {busybox_base}\nRUN true\n")
    name = f"{registry.host}/rootless/neither:1"
    done = user.asyncbuild("build", "-t", name, place)
    assert done.returncode == 77, told(done)
    text = done.stderr.decode()
    assert "Dockerfile:2" in text
    assert REASON in text
    (place / "Dockerfile").write_text(f"FROM {busybox_base}\nCOPY --chown=app Dockerfile /x\n")
    done = user.asyncbuild("build", "-t", name, place)
    assert done.returncode == 0, told(done)
