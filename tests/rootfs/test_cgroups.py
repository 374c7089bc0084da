"""Control groups: made where they can be, removed afterwards, refused with a reason elsewhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from asyncbuild.rootfs.cgroups import CannotLimit, Group, Limits

MIB = 1 << 20


def fake_proc(path: Path, mountinfo: str, cgroup: str) -> Path:
    """A /proc/PID with these two files."""
    path.mkdir()
    (path / "mountinfo").write_text(mountinfo)
    (path / "cgroup").write_text(cgroup)
    return path


@pytest.mark.parametrize(
    ("limits", "version", "expected"),
    [
        (Limits(memory=MIB), 2, {"memory": {"memory.max": "1048576"}}),
        (Limits(memory=MIB), 1, {"memory": {"memory.limit_in_bytes": "1048576"}}),
        (Limits(cpus=1.5), 2, {"cpu": {"cpu.max": "150000 100000"}}),
        (
            Limits(cpus=0.001),
            1,
            {"cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "1000"}},
        ),
    ],
)
def test_files(limits: Limits, version: int, expected: dict[str, dict[str, str]]) -> None:
    """The kernel's files and their values, in both versions."""
    assert limits.files(version=version) == expected


def test_version_2(shm_path: Path) -> None:
    """Controllers are handed down, one group has all limits, a process is put in, and it is removed."""
    top = shm_path / "cgroup"
    own = top / "build"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("cpu io memory pids")
    (own / "cgroup.subtree_control").write_text("memory")
    mountinfo = f"30 23 0:26 / {top} rw - cgroup2 cgroup2 rw\n"
    proc = fake_proc(shm_path / "proc", mountinfo, "0::/build\n")
    group = Group.make(Limits(memory=MIB, cpus=2), proc=proc)
    assert (own / "cgroup.subtree_control").read_text() == "+cpu"
    (made,) = (path for path in own.iterdir() if path.is_dir())
    assert made.name.startswith(f"asyncbuild-{os.getpid()}-")
    group.add(7)
    (made / "memory.events").write_text("low 0\noom_kill 1\n")
    found = {path.name: path.read_text() for path in made.iterdir()}
    assert found["memory.max"] == "1048576"
    assert found["cpu.max"] == "200000 100000"
    assert found["cgroup.procs"] == "7"
    assert group.out_of_memory()
    for path in made.iterdir():  # the kernel's files go with the directory
        path.unlink()
    group.close()
    assert not made.exists()


def test_version_2_below_systemd(shm_path: Path) -> None:
    """The builder's own group has processes and gives nothing; the slice above it does, and is the user's."""
    top = shm_path / "cgroup"
    own = top / "user.slice/app.slice/run-1.scope"
    own.mkdir(parents=True)
    for path in (own, own.parent):
        (path / "cgroup.controllers").write_text("cpu memory pids")
    (own / "cgroup.subtree_control").write_text("")
    (own.parent / "cgroup.subtree_control").write_text("cpu memory")
    mountinfo = f"30 23 0:26 / {top} rw - cgroup2 cgroup2 rw\n"
    place = "0::/user.slice/app.slice/run-1.scope\n"
    Group.make(Limits(memory=MIB, cpus=2), proc=fake_proc(shm_path / "proc", mountinfo, place))
    (made,) = (path for path in own.parent.iterdir() if path.is_dir() and path != own)
    assert (made / "memory.max").read_text() == "1048576"
    assert (own / "cgroup.subtree_control").read_text() == ""


def test_a_container_sees_a_part_of_the_hierarchy(shm_path: Path) -> None:
    """The place in /proc is the machine's; what is mounted begins further down."""
    top = shm_path / "memory"
    (top / "sub").mkdir(parents=True)
    mountinfo = f"30 23 0:26 /docker/abc {top} rw - cgroup memory rw,memory\n"
    proc = fake_proc(shm_path / "proc", mountinfo, "4:memory:/docker/abc/sub\n")
    group = Group.make(Limits(memory=MIB), proc=proc)
    (made,) = (top / "sub").iterdir()
    assert (made / "memory.limit_in_bytes").read_text() == "1048576"
    assert not group.out_of_memory()


def test_groups_of_dead_builders_are_removed(shm_path: Path) -> None:
    """A builder that was killed cannot clean up: the next does, and leaves those that live."""
    top = shm_path / "memory"
    dead, alive = top / "asyncbuild-999999999-1", top / f"asyncbuild-{os.getpid()}-0"
    for path in (dead, alive):
        path.mkdir(parents=True)
    mountinfo = f"30 23 0:26 / {top} rw - cgroup memory rw,memory\n"
    Group.make(Limits(memory=MIB), proc=fake_proc(shm_path / "proc", mountinfo, "4:memory:/\n"))
    assert (dead.exists(), alive.exists()) == (False, True)


@pytest.mark.parametrize("mountinfo", ["", "30 23 0:26 / /nowhere rw - cgroup2 cgroup2 rw\n"])
def test_without_control_groups(shm_path: Path, mountinfo: str) -> None:
    """The error says that there are none, or what went wrong."""
    proc = fake_proc(shm_path / "proc", mountinfo, "0::/\n")
    with pytest.raises(CannotLimit, match="no control group"):
        Group.make(Limits(memory=MIB), proc=proc)


@pytest.mark.integration
def test_the_kernels_own() -> None:
    """A process that wants more than its group may have is killed, and the group knows."""
    group = Group.make(Limits(memory=16 * MIB))
    try:
        script = "read go; exec dd if=/dev/zero of=/dev/null bs=64M count=1"
        with subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            group.add(child.pid)
            child.communicate(b"go\n")
        assert child.returncode == -9
        assert group.out_of_memory()
    finally:
        group.close()
