"""The system calls that a RUN may not make, as a filter for the kernel (seccomp(2)).

What is refused is what docker's default profile refuses a process with docker's default capabilities
(``moby/profiles/seccomp/default.json``): calls that the capabilities refuse anyway, and those that are
open to everyone and not made for guests: keyrings, bpf, io_uring, userfaultfd, perf, new user namespaces,
AF_ALG and AF_VSOCK sockets. The profile lists what is allowed; the tables here hold the rest, by number,
up to the newest call that the profile knows. Calls beyond that do not exist for a RUN (ENOSYS, as with
runc), and clone3 does not either, because its flags cannot be looked at: libraries fall back to clone.

A filter is made for this machine and for the 32-bit programs that it can run. Machines that are not in
the tables get none: capabilities and masks are all that holds a RUN there.
"""

from __future__ import annotations

import errno
import platform
import struct

from asyncbuild.records import dataclass

_NEWEST = 466  # removexattrat: the same number everywhere since 2018
_CLONE3 = 435
_NAMESPACES = 0x7E02_0000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}, the flags of clone that are refused."""
_SOCKETS = (38, 40)
"""AF_ALG and AF_VSOCK."""
_PERSONALITIES = (0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)
"""What personality(2) may set: PER_LINUX, PER_LINUX32, each with UNAME26, and asking."""
_X32 = 0x4000_0000

_GENERIC = (
    "18 39-42 58 60 89 97 104-106 112 116 142 161-162 170 217-219 224-225 235-239 241 244 262 265 268"
    " 272-273 280 282 294 425-433 438 440 442-443 450 459-461"
)
_X86_64 = (
    "103 134 136 139 153 155-156 163-185 212 227 236-239 246 248-250 256 272 279 298 300 304 308"
    " 312-313 320-321 323 336 425-433 438 440 442-443 450 459-461"
)
_I386 = (
    "17-18 21-22 25 28 31-32 34-35 44 48 51-53 56 58-59 62 67-69 72-74 79 84 86-89 98 101 103 109-113"
    " 115 121 127-131 134-135 137 149 166-167 169 188-189 217 253 264 273-276 283 286-288 294 310 317"
    " 336 338 342 346 349-350 357 374 404 425-433 438 440 442-443 450 459-461"
)
_ARM = (
    "0 21 34 51-52 62 67 72-74 79 86-88 103 111 115 121 128-131 134-135 149 169 218 249 262 271-273"
    " 309-311 313 319-321 337 344 347 364 367 371 375 378-379 386 388 400-401 404 425-433 438 440"
    " 442-443 450 459-461"
)


@dataclass(frozen=True, slots=True)
class _Architecture:
    """How system calls are numbered: ``audit`` is AUDIT_ARCH_… of ``linux/audit.h``."""

    audit: int
    refused: str
    clone: int
    socket: int
    personality: int
    has_x32: bool = False


_AMD64 = _Architecture(0xC000_003E, _X86_64, 56, 41, 135, has_x32=True)
_X86 = _Architecture(0x4000_0003, _I386, 120, 359, 136)
_ARM64 = _Architecture(0xC000_00B7, _GENERIC, 220, 198, 92)
_ARM32 = _Architecture(0x4000_0028, _ARM, 120, 281, 136)
_RISCV64 = _Architecture(0xC000_00F3, _GENERIC, 220, 198, 92)
_MACHINES = {"x86_64": (_AMD64, _X86), "aarch64": (_ARM64, _ARM32), "riscv64": (_RISCV64,)}

_LOAD, _AND, _JUMP, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
_ALLOW = 0x7FFF_0000
_REFUSE = 0x0005_0000 | errno.EPERM
_ABSENT = 0x0005_0000 | errno.ENOSYS
_NUMBER, _AUDIT, _ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data (the lower half of the first argument: little-endian machines only)."""

_Instruction = tuple[int, int, int, int]
"""A struct sock_filter: code, how far to jump if true, if false, and the operand."""

_YES: _Instruction = (_RETURN, 0, 0, _ALLOW)
_NO: _Instruction = (_RETURN, 0, 0, _REFUSE)


def system_call_filter(machine: str | None = None) -> bytes:
    """The program for ``machine`` (default: this one) as an array of struct sock_filter; empty: none."""
    program: list[_Instruction] = [(_LOAD, 0, 0, _AUDIT)]
    architectures = _MACHINES.get(machine or platform.machine(), ())
    for architecture in architectures:
        block = _block(architecture)
        program += [(_EQUAL, 1, 0, architecture.audit), (_JUMP, 0, 0, len(block)), *block]
    program.append((_RETURN, 0, 0, _ABSENT))
    return b"".join(struct.pack("=HBBI", *line) for line in program) if architectures else b""


def _block(architecture: _Architecture) -> list[_Instruction]:
    """What happens to a call of this architecture; it always ends in an answer."""
    lines: list[_Instruction] = [(_LOAD, 0, 0, _NUMBER)]
    if architecture.has_x32:
        lines += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ABSENT)]
    lines += [(_GREATER, 0, 1, _NEWEST), (_RETURN, 0, 0, _ABSENT)]
    lines += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ABSENT)]
    for word in architecture.refused.split():
        first, _, last = word.partition("-")
        lines += _refused(int(first), int(last or first))
    lines += _if_call(architecture.clone, [(_AND, 0, 0, _NAMESPACES), (_EQUAL, 0, 1, 0), _YES, _NO])
    families = [line for family in _SOCKETS for line in ((_EQUAL, 0, 1, family), _NO)]
    lines += _if_call(architecture.socket, [*families, _YES])
    values = [line for value in _PERSONALITIES for line in ((_EQUAL, 0, 1, value), _YES)]
    lines += _if_call(architecture.personality, [*values, _NO])
    return [*lines, _YES]


def _refused(first: int, last: int) -> list[_Instruction]:
    """Refuse the calls from ``first`` to ``last``."""
    if first == last:
        return [(_EQUAL, 0, 1, first), _NO]
    return [(_AT_LEAST, 0, 2, first), (_GREATER, 1, 0, last), _NO]


def _if_call(number: int, answer: list[_Instruction]) -> list[_Instruction]:
    """For one call, load its first argument and go on with ``answer``, which must not fall through."""
    return [(_EQUAL, 0, len(answer) + 1, number), (_LOAD, 0, 0, _ARGUMENT), *answer]
