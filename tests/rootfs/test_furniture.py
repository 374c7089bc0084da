"""What a RUN finds beside its image: /proc, /sys, /dev, the network's files, files and binds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncbuild.rootfs.runspec import RunFile
from support.roots import Roots

pytestmark = pytest.mark.integration


def test_devices_work(roots: Roots) -> None:
    """The usual devices can be read and written, terminals made, and streams found by their names."""
    script = """
        set -e
        echo lost > /dev/null
        test "$(head -c 4 /dev/zero | tr '\\0' x)" = xxxx
        test "$(head -c 64 /dev/urandom | wc -c)" = 64
        test "$(head -c 8 /dev/random | wc -c)" = 8
        ! echo x 2>/dev/null > /dev/full
        : < /dev/ptmx
        echo out > /dev/stdout; echo err > /dev/stderr
        echo fd > /dev/fd/1
        echo x > /dev/shm/file
        test -d /dev/mqueue -a -d /dev/pts -a -c /dev/tty
    """
    ran = roots.shell(script)
    assert (ran.code, ran.stdout, ran.stderr, ran.changes) == (0, "out\nfd\n", "err\n", {})


def test_a_user_may_open_the_streams(roots: Roots) -> None:
    """/dev/stdout and /dev/stderr can be opened by whoever runs the command."""
    ran = roots.shell("echo out > /dev/stdout; echo err > /dev/stderr", uid=1000, gid=1000)
    assert (ran.code, ran.stdout, ran.stderr) == (0, "out\n", "err\n")


def test_made_devices_cannot_be_opened(roots: Roots) -> None:
    """A RUN may make the node of this machine's disk, and open it nowhere that it can write."""
    for place in ("/", "/dev/", "/dev/shm/"):
        ran = roots.shell(f"mknod {place}zero c 1 5 2>/dev/null || rm {place}zero; "
                          f"mknod {place}mine c 1 5 && head -c 1 {place}mine")  # fmt: skip
        assert ran.code == 1
        assert "Permission denied" in ran.stderr, place


def test_masked_and_read_only_paths(roots: Roots) -> None:
    """The kernel's memory and keys are empty, its settings cannot be written; nor can /sys."""
    ran = roots.shell("cat /proc/keys; ls -A /proc/acpi /sys/firmware")
    assert "cannot" not in ran.stdout
    paths = ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/uevent_seqnum")
    for path in filter(os.path.exists, paths):  # a kernel need not have all of them
        ran = roots.shell(f"echo x > {path}")
        assert "Read-only file system" in ran.stderr, path
    assert roots.shell("cat /proc/kcore | wc -c").stdout == "0\n"


def test_nothing_can_be_unmounted_or_mounted(roots: Roots) -> None:
    """The command has not the rights to change its mounts."""
    for command in ("umount /proc/sys", "mount -t tmpfs x /bin", "mount -o remount,rw /sys"):
        assert roots.shell(command).code != 0


def test_hosts_and_resolv_conf(roots: Roots) -> None:
    """The network's files are as BuildKit writes them, and read-only."""
    ran = roots.shell(
        "cat /etc/hosts /etc/resolv.conf; echo x >> /etc/hosts",
        hostname="box",
        extra_hosts=(("db", "192.0.2.7"),),
        resolv_conf=b"nameserver 192.0.2.1\n",
    )
    assert ran.stdout == (
        "127.0.0.1\tlocalhost box\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "192.0.2.7\tdb\n"
        "nameserver 192.0.2.1\n"
    )
    assert "Read-only file system" in ran.stderr


def test_resolv_conf_is_the_machines(roots: Roots) -> None:
    """Where nothing else is said, names are resolved as on this machine."""
    try:
        expected = Path("/etc/resolv.conf").read_text()
    except OSError:
        expected = ""
    assert roots.shell("cat /etc/resolv.conf").stdout == expected


def test_hostname_file_is_the_images(roots: Roots) -> None:
    """/etc/hostname belongs to the image: a RUN may write it, and it is kept (as in BuildKit)."""
    assert roots.shell("echo box > /etc/hostname").changes == {
        "etc": "dir",
        "etc/hostname": "box\n",
    }


def test_files_of_the_run(roots: Roots) -> None:
    """Heredocs stand in /dev/pipes, can be executed there, and are in no layer."""
    files = (
        RunFile("EOF", 0o755, b"#!/bin/sh\necho script $0\n"),
        RunFile("data", 0o600, b"\x00\xff"),
    )
    assert files[0].path == "/dev/pipes/EOF"
    ran = roots.run("/dev/pipes/EOF", files=files)
    assert (ran.code, ran.stdout, ran.changes) == (0, "script /dev/pipes/EOF\n", {})
    ran = roots.shell("stat -c '%a %u %s' /dev/pipes/data; ls -a /dev/pipes | wc -l", files=files)
    assert ran.stdout == "600 0 2\n4\n"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x"])
def test_a_file_stays_in_its_directory(roots: Roots, name: str) -> None:
    """A heredoc's name cannot lead out of /dev/pipes."""
    with pytest.raises(ValueError, match="cannot be the name"):
        roots.spec("true", files=(RunFile(name, 0o644, b""),))
