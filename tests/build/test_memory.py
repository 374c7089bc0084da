"""How much memory a build takes: large layers pass through it, they are never in it."""

from __future__ import annotations

import random
import subprocess
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from isal import isal_zlib

from support.bases import busybox_layer
from support.builds import descendants
from support.commands import COMMAND, context, environment
from support.images import Image, Layer
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

LIMIT = 150 << 20
"""Bytes of all processes of a build together."""
SIZE = 1 << 30
_BLOCK, _TIMES = 16 << 10, 8
_EVERY = 0.02


def large_tar() -> Iterator[bytes]:
    """A tar of one file of a GiB, in pieces: noise, each 16 KiB of it eight times, so that it compresses."""
    info = tarfile.TarInfo("large")
    info.size = SIZE
    yield info.tobuf(tarfile.PAX_FORMAT)
    noise = random.Random(1)
    for _ in range(SIZE // (_BLOCK * _TIMES)):
        yield noise.randbytes(_BLOCK) * _TIMES
    yield bytes(10240)


def large_layer() -> Layer:
    """The layer of `large_tar`, compressed fast."""
    diff_id, packer = sha256(), isal_zlib.compressobj(0, isal_zlib.DEFLATED, 31)
    pieces = []
    for piece in large_tar():
        diff_id.update(piece)
        pieces.append(packer.compress(piece))
    blob = b"".join([*pieces, packer.flush()])
    return Layer(blob, f"sha256:{sha256(blob).hexdigest()}", f"sha256:{diff_id.hexdigest()}")


def proportional(pid: int) -> int:
    """Bytes of a process that are in memory, each divided among the processes that share it (PSS, as
    proc(5) has it); 0 if it has ended.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in text.splitlines())
    return sum(int(words[1]) << 10 for words in lines if words[0] == "Pss:")


def peak(child: subprocess.Popen[bytes]) -> int:
    """Wait for a process; the most that it and its descendants had in memory together."""
    most = 0
    while True:
        family = [child.pid, *descendants(child.pid).values()]
        most = max(most, sum(map(proportional, family)))
        try:
            child.wait(_EVERY)
        except subprocess.TimeoutExpired:
            continue
        return most


def test_building_upon_and_pushing_a_gibibyte(
    shm_path: Path,
    registry: DockerRegistry,
    auth_registry: DockerRegistry,
    auth_docker_config: Path,
) -> None:
    """A base layer of a GiB is pulled, unpacked and sent to another registry; a RUN makes another GiB."""
    Image([busybox_layer(), large_layer()]).push(registry, "memory/base")
    context(shm_path, f"FROM {registry.host}/memory/base\nRUN cp /large /copy\n")
    command = [*COMMAND, "build", "--store", "store", "-t", f"{auth_registry.host}/memory/app:1"]
    with (shm_path / "said").open("wb") as said:
        child = subprocess.Popen(
            [*command, "--progress", "plain", "context"],
            cwd=shm_path,
            env=environment(DOCKER_CONFIG=str(auth_docker_config)),
            stdout=said,
            stderr=said,
        )
        most = peak(child)
    assert child.returncode == 0, (shm_path / "said").read_text()
    assert most < LIMIT
