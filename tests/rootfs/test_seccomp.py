"""The filter of system calls: what docker's profile refuses is refused, what programs need is not."""

from __future__ import annotations

import errno
import json
import os
import platform
import struct
import sys
from pathlib import Path

import pytest

from asyncbuild.rootfs.runspec import BindMount
from asyncbuild.rootfs.seccomp import system_call_filter
from support.roots import Roots

ALLOWED, REFUSED, ABSENT = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
AMD64, I386, ARM64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028


def answer(machine: str, architecture: int, number: int, argument: int = 0) -> int:
    """What the kernel would answer to a call: an interpreter of the few instructions that are used."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    program = list(struct.iter_unpack("=HBBI", system_call_filter(machine)))
    value = place = 0
    while True:
        code, if_true, if_false, operand = program[place]
        place += 1
        if code == 0x20:
            value = struct.unpack_from("=I", data, operand)[0]
        elif code == 0x54:
            value &= operand
        elif code == 0x05:
            place += operand
        elif code == 0x06:
            return int(operand)
        else:
            holds = {0x15: value == operand, 0x25: value > operand, 0x35: value >= operand}[code]
            place += if_true if holds else if_false


@pytest.mark.parametrize(
    ("architecture", "number", "argument", "expected"),
    [
        pytest.param(AMD64, 0, 0, ALLOWED, id="read"),
        pytest.param(AMD64, 59, 0, ALLOWED, id="execve"),
        pytest.param(AMD64, 101, 0, ALLOWED, id="ptrace"),
        pytest.param(AMD64, 161, 0, ALLOWED, id="chroot"),
        pytest.param(AMD64, 133, 0, ALLOWED, id="mknod"),
        pytest.param(AMD64, 165, 0, REFUSED, id="mount"),
        pytest.param(AMD64, 185, 0, REFUSED, id="the last of a range"),
        pytest.param(AMD64, 186, 0, ALLOWED, id="gettid"),
        pytest.param(AMD64, 250, 0, REFUSED, id="keyctl"),
        pytest.param(AMD64, 272, 0x10000000, REFUSED, id="unshare"),
        pytest.param(AMD64, 321, 0, REFUSED, id="bpf"),
        pytest.param(AMD64, 425, 0, REFUSED, id="io_uring_setup"),
        pytest.param(AMD64, 435, 0, ABSENT, id="clone3"),
        pytest.param(AMD64, 439, 0, ALLOWED, id="faccessat2"),
        pytest.param(AMD64, 466, 0, ALLOWED, id="the newest that is known"),
        pytest.param(AMD64, 467, 0, ABSENT, id="newer than what is known"),
        pytest.param(AMD64, 0x40000000, 0, ABSENT, id="x32"),
        pytest.param(AMD64, 56, 0x1200011, ALLOWED, id="clone as fork"),
        pytest.param(AMD64, 56, 0x10000000, REFUSED, id="clone with a user namespace"),
        pytest.param(AMD64, 41, 2, ALLOWED, id="socket AF_INET"),
        pytest.param(AMD64, 41, 38, REFUSED, id="socket AF_ALG"),
        pytest.param(AMD64, 41, 39, ALLOWED, id="socket AF_NFC"),
        pytest.param(AMD64, 41, 40, REFUSED, id="socket AF_VSOCK"),
        pytest.param(AMD64, 135, 8, ALLOWED, id="personality PER_LINUX32"),
        pytest.param(AMD64, 135, 0x0040000, REFUSED, id="personality ADDR_NO_RANDOMIZE"),
        pytest.param(AMD64, 135, 0xFFFFFFFF, ALLOWED, id="personality asked for"),
        pytest.param(I386, 3, 0, ALLOWED, id="read of 32 bits"),
        pytest.param(I386, 165, 0, ALLOWED, id="getresuid of 32 bits"),
        pytest.param(I386, 21, 0, REFUSED, id="mount of 32 bits"),
        pytest.param(ARM64, 0, 0, ABSENT, id="another machine's call"),
    ],
)
def test_answers(architecture: int, number: int, argument: int, expected: int) -> None:
    """Each call by its number and first argument, as docker's profile has it."""
    assert answer("x86_64", architecture, number, argument) == expected


def test_answers_on_arm() -> None:
    """The generic table, and that of 32-bit programs."""
    assert answer("aarch64", ARM64, 40) == REFUSED
    assert answer("aarch64", ARM64, 221) == ALLOWED
    assert answer("aarch64", ARM64, 220, 0x10000000) == REFUSED
    assert answer("aarch64", ARM, 21) == REFUSED
    assert answer("aarch64", ARM, 3) == ALLOWED
    assert answer("riscv64", 0xC00000F3, 97) == REFUSED


def test_a_machine_without_a_table_has_no_filter() -> None:
    """Nothing is guessed about numbers."""
    assert system_call_filter("s390x") == b""


CALL = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for number in json.loads(sys.argv[1]):
    libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    found[number] = ctypes.get_errno()
print(json.dumps(found))
"""
UNFILTERED = (336,)
"""uprobe: since 6.14 the kernel asks no filter about it."""
HARMLESS = (434, 437, 439, 441)
"""pidfd_open, openat2, faccessat2, epoll_pwait2, with arguments that are none."""


@pytest.mark.integration
def test_every_refused_call_is_refused(roots: Roots) -> None:
    """Each call that docker's profile refuses, made: by our filter of numbers, and by a runtime's of names.

    Of calls that its libseccomp does not know a runtime may say that they do not exist.
    """
    machine = platform.machine()
    architecture = {"x86_64": AMD64, "aarch64": ARM64}[machine]
    answers = {number: answer(machine, architecture, number) for number in range(467)}
    refused = [
        number for number, found in answers.items() if found != ALLOWED and number not in UNFILTERED
    ]
    paths = {os.path.realpath(path) for path in ("/usr", "/lib", "/lib64", sys.base_prefix)}
    mounts = [BindMount(Path(path), path, read_only=True) for path in sorted(paths)]
    mounts += [
        BindMount(Path(path), path, read_only=True)
        for path in ("/lib", "/lib64")
        if path not in paths and os.path.isdir(path)
    ]
    python = os.path.realpath(sys.executable)
    words = (python, "-I", "-S", "-c", CALL, json.dumps([*refused, *HARMLESS]))
    ran = roots.run(*words, mounts=tuple(mounts))
    assert (ran.code, ran.stderr) == (0, "")
    found = {int(number): code for number, code in json.loads(ran.stdout).items()}
    assert [number for number in HARMLESS if found[number] in (errno.EPERM, errno.ENOSYS)] == []
    allowed = [number for number in refused if found[number] not in (errno.EPERM, errno.ENOSYS)]
    assert len(refused) > 60
    assert allowed == []
    assert found[435] == errno.ENOSYS


@pytest.mark.integration
def test_a_run_is_filtered(roots: Roots) -> None:
    """Root in a RUN cannot make a user namespace; a privileged RUN can mount."""
    ran = roots.shell("grep Seccomp: /proc/self/status; unshare -U true; echo $?")
    assert ran.stdout == "Seccomp:\t2\n1\n"
    assert "Operation not permitted" in ran.stderr
    ran = roots.shell(
        "grep Seccomp: /proc/self/status; mount -t tmpfs x /bin; ls /bin", privileged=True
    )
    assert (ran.stdout, ran.stderr) == ("Seccomp:\t0\n", "")
