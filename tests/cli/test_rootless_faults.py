"""What goes wrong for an ordinary user: no room, nothing to write to, signals while fuse serves a root."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import refusing
from support.builds import descendants
from support.commands import COMMAND, context, told
from support.registry import DockerRegistry
from support.users import UID, User

pytestmark = pytest.mark.integration

MUCH = "RUN dd if=/dev/urandom of=/much bs=1M count=64\n"
SMALL = """\
set -e
mount --make-rprivate /
mount -t tmpfs -o "$OPTIONS" small "$PLACE"
exec "$@"
"""


@pytest.fixture
def user(shm_path: Path) -> User:
    """A user with subordinate ids."""
    return User.below(shm_path)


def on(user: User, options: str, place: Path | None = None) -> User:
    """The user, whose store (or another place) is a file system of its own with these mount options."""
    where = place or user.store
    where.mkdir(parents=True, exist_ok=True)
    for path in (where, *where.parents):
        if path.is_relative_to(user.home):
            os.chown(path, UID, UID)
    script = f"OPTIONS={options},uid={UID},gid={UID} PLACE={where}\n{SMALL}"
    return dataclasses.replace(user, kernel=("unshare", "-m", "sh", "-c", script, "sh"))


def words(registry: DockerRegistry, user: User, dockerfile: str) -> list[str]:
    """The command line that builds a Dockerfile and pushes it."""
    name = f"{registry.host}/user-faults/app:1"
    return ["build", "-t", name, "--progress", "plain", str(context(user.directory, dockerfile))]


def test_no_room_for_the_base(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """The store's disk is full: 74, with its place and what to do; nothing is pushed.

    Whichever write meets the full disk first says so: that of a layer's file, or that of the store's catalogue.
    """
    small = on(user, "size=1m")
    done = small.asyncbuild(*words(registry, user, f"FROM {busybox_base}\n{MUCH}"))
    assert done.returncode == 74, told(done)
    assert re.search(
        rf"cannot write {user.store}/\S+: the disk is full|the disk that holds the store {user.store} is full",
        done.stderr.decode(),
    ), told(done)
    assert registry.call("HEAD", "/v2/user-faults/app/manifests/1")[0] == 404


def test_no_room_for_what_a_command_writes(
    user: User, registry: DockerRegistry, busybox_base: str
) -> None:
    """The command itself is told, and its code is the build's."""
    small = on(user, "size=24m")
    done = small.asyncbuild(*words(registry, user, f"FROM {busybox_base}\n{MUCH}"))
    assert done.returncode == 1, told(done)
    assert b"No space left on device" in done.stderr, told(done)


def test_a_read_only_store(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """The store cannot be used: 74, and it is named."""
    held = on(user, "ro")
    done = held.asyncbuild(*words(registry, user, f"FROM {busybox_base}\nRUN true\n"))
    assert done.returncode == 74, told(done)
    assert str(user.store).encode() in done.stderr, told(done)


@pytest.mark.parametrize(
    ("options", "message"),
    [("size=1m", ": the disk is full"), ("ro", "is on a read-only file system")],
    ids=["full", "read-only"],
)
def test_a_store_without_namespaces(
    user: User, registry: DockerRegistry, busybox_base: str, options: str, message: str
) -> None:
    """With --isolation none it is the same: 74, and the store is named."""
    held = on(user, options)
    line = words(registry, user, f"FROM {busybox_base}\nCOPY noise /\n")
    (user.directory / "context/noise").write_bytes(random.Random(1).randbytes(4 << 20))
    done = held.asyncbuild(*line[:-1], "--isolation", "none", line[-1])
    assert done.returncode == 74, told(done)
    assert message in done.stderr.decode(), told(done)
    assert str(user.store) in done.stderr.decode(), told(done)
    assert registry.call("HEAD", "/v2/user-faults/app/manifests/1")[0] == 404


def test_a_full_tmp(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """A build needs no room in /tmp."""
    held = on(user, "size=4k", Path("/tmp"))
    line = words(registry, user, f"FROM {busybox_base}\nRUN echo made > /made\nCOPY Dockerfile /\n")
    fill = (
        'dd if=/dev/zero of=/tmp/full bs=4096 count=1 2> /dev/null; ! touch /tmp/x/y && exec "$@"'
    )
    done = held.run("sh", "-c", fill, "sh", *COMMAND, *line)
    assert done.returncode == 0, told(done)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGKILL, 137)],
    ids=["SIGTERM", "SIGKILL"],
)
def test_signals_end_what_serves_the_root(
    user: User, registry: DockerRegistry, busybox_base: str, number: int, code: int
) -> None:
    """With fuse-overlayfs too: no process goes on, no mount is left, and the store is good."""
    old = dataclasses.replace(
        user, kernel=(sys.executable, refusing.__file__, "overlay"), fuse=True
    )
    mount = "--mount=type=cache,target=/c"
    line = words(registry, user, f"FROM {busybox_base}\nRUN {mount} touch /c/started; sleep 1000\n")
    with subprocess.Popen(
        old.words(*COMMAND, *line),
        env=old.environment(),
        cwd=old.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(user.store.glob("cache-mounts/*/*/fs/started")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        below = descendants(process.pid)
        assert any("fuse-overlayfs" in name for name in below), below
        handles = [os.pidfd_open(pid) for pid in below.values()]
        (builder,) = _builders(process.pid)
        os.kill(builder, number)
        process.communicate()
    assert process.returncode == code
    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "a process of the build goes on"
        os.close(handle)
    assert str(user.directory) not in Path("/proc/self/mountinfo").read_text()
    (user.directory / "context/Dockerfile").write_text(f"FROM {busybox_base}\nRUN echo again\n")
    done = user.asyncbuild(*line[:-1], user.directory / "context")
    assert done.returncode == 0, told(done)


def _builders(parent: int) -> list[int]:
    """The build's own process, below what plays the kernel."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children]
