"""Dockerfiles and contexts that are made to break a builder: an image, or an error with a place; never a hang."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from asyncbuild.context.directory import DirectoryContext
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import AsyncbuildError, DockerfileError
from asyncbuild.image.manifest import Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.plan.planner import PlanRequest, make_plan
from asyncbuild.testing.registry import RegistryDouble
from support import fuzz
from support.builds import World

PLATFORM = Platform("linux", "amd64")


def test_ten_thousand_stages() -> None:
    """Each upon the one before it: planned, rendered and checked; no recursion goes so deep."""
    stages = [f"FROM s{number} AS s{number + 1}\n" for number in range(10_000)]
    plan = make_plan(
        parse_dockerfile("FROM scratch AS s0\n" + "".join(stages) + "LABEL a=b\n"),
        PlanRequest(PLATFORM, PLATFORM),
    )
    assert len(plan.needed) == 10_001


def test_ten_thousand_stages_that_copy() -> None:
    """Each copies from the one before it."""
    stages = [
        f"FROM scratch AS s{number + 1}\nCOPY --from=s{number} /a /a\n" for number in range(10_000)
    ]
    text = "FROM scratch AS s0\nCOPY a /a\n" + "".join(stages)
    plan = make_plan(parse_dockerfile(text), PlanRequest(PLATFORM, PLATFORM))
    assert len(plan.needed) == 10_001


@pytest.mark.parametrize(
    "text",
    [
        "FROM b AS a\nFROM a AS b\n",  # b is an image: only stages above are known
        "FROM scratch AS a\nCOPY --from=a /x /x\n",
        "FROM scratch\nCOPY --from=0 /x /x\n",
        "FROM scratch\nCOPY --from=1 /x /x\nFROM scratch\nCOPY --from=0 /x /x\n",
        "FROM scratch AS a\nRUN --mount=from=a,target=/x true\n",
    ],
)
def test_no_stage_needs_itself(text: str) -> None:
    """Stages in a circle cannot be written: a plan without one, or an error with its place."""
    try:
        plan = make_plan(parse_dockerfile(text), PlanRequest(PLATFORM, PLATFORM))
    except DockerfileError as error:
        where = error.location
    else:
        where = None
        assert [stage.index for stage in plan.stages] == sorted(s.index for s in plan.stages)
    assert where is None or where.line >= 1


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch\n" + "ENV a=${a}${a}${a}x\n" * 60,
        "ARG a=x\n" + "ARG a=${a}${a}\n" * 60 + "FROM $a\n",
        "FROM scratch\nENV a=" + "x" * 1000 + "\nENV b=" + "$a" * 1000 + "\nENV c=" + "$b" * 1000,
        "FROM scratch\nENV a=" + "aaaaaaaa" * 1000 + "\nENV b=${a//a/$a}\nENV c=${b//a/$b}\n",
    ],
)
def test_other_expansions(text: str) -> None:
    """The same in other clothes; whatever is read, it has an end."""
    fuzz.read(text.encode())


def build(world: World, dockerfile: str) -> AsyncbuildError | None:
    """Build and push; the error."""

    async def main() -> None:
        await world.build(world.request(dockerfile, "app:1"))

    try:
        trio.run(main)
    except AsyncbuildError as error:
        return error
    return None


@pytest.mark.parametrize("rounds", [30, 200])
@pytest.mark.parametrize("last", ["ARG x=$last", "ENV x=$last", "LABEL x=$last", "WORKDIR /$last"])
def test_variables_that_double(last: str, rounds: int, shm_path: Path) -> None:
    """A billion laughs: every line twice as long as the one before it is an error of its line."""
    lines = ["FROM scratch", "ENV a0=0123456789"]
    lines += [f"ENV a{n + 1}=${{a{n}}}${{a{n}}}" for n in range(rounds)]
    lines.append(last.replace("last", f"a{rounds}"))
    error = build(World.below(shm_path, RegistryDouble()), "\n".join(lines))
    assert isinstance(error, DockerfileError)
    assert "characters together" in error.message
    assert error.location is not None
    assert 10 < error.location.line < 22
    assert len(error.render()) < 5000


def test_many_large_variables(shm_path: Path) -> None:
    """Each is allowed, all together are too much."""
    large = "x" * (1 << 19)
    lines = ["FROM scratch", f"ENV a={large}", *(f"ENV a{n}=$a" for n in range(40))]
    error = build(World.below(shm_path, RegistryDouble()), "\n".join(lines))
    assert isinstance(error, DockerfileError)
    assert "variables of this stage" in error.message


def test_a_replacement_that_explodes(shm_path: Path) -> None:
    """Every letter of a long text by that text."""
    lines = ["FROM scratch", f"ENV a={'a' * 10_000}", "ENV b=${a//a/$a}", "LABEL c=$b"]
    error = build(World.below(shm_path, RegistryDouble()), "\n".join(lines))
    assert isinstance(error, DockerfileError)
    assert "replacement" in error.message


def test_names_of_255_bytes_and_odd_files(shm_path: Path) -> None:
    """The longest names, names that are no UTF-8, fifos; a socket is no part of an image."""
    world = World.below(shm_path, RegistryDouble())
    context = os.fsencode(world.context)
    deep = b"/".join([b"d" * 255] * 4)
    os.makedirs(context + b"/" + deep)
    for name in (b"n" * 255, deep + b"/" + b"\xff" * 255, b"new\nline", b"\xfe", b"-rf", b"$a"):
        with open(context + b"/" + name, "wb") as sink:
            sink.write(name)
    os.mkfifo(world.context / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(world.context / "socket"))
        error = build(world, "FROM scratch\nCOPY . /\n")
    assert error is None
    manifest = world.double.manifest("app", "1")
    assert isinstance(manifest, Manifest)


def test_links_that_leave_the_context(shm_path: Path) -> None:
    """No link, and no way over ``..``, shows what lies outside."""
    secret = shm_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("the secret")
    world = World.below(shm_path, RegistryDouble())
    (world.context / "up").symlink_to("../secret")
    (world.context / "absolute").symlink_to(secret / "key")
    (world.context / "loop").symlink_to("loop")
    for source in ("up/key", "absolute", "../secret/key", "loop", "up/../../secret/key"):
        assert build(world, f"FROM scratch\nCOPY {source} /x\n") is not None, source
    assert build(world, "FROM scratch\nCOPY . /x\n") is None
    for blobs in world.double.blobs.values():
        assert not any(b"the secret" in data for data in blobs.values())


def test_a_hundred_thousand_files(shm_path: Path) -> None:
    """Walked and placed; directories of a thousand names each."""
    context = shm_path / "context"
    for directory in range(100):
        (context / f"d{directory}").mkdir(parents=True)
        descriptor = os.open(context / f"d{directory}", os.O_RDONLY)
        for number in range(1000):
            os.mknod(f"f{number}", 0o644, dir_fd=descriptor)
        os.close(descriptor)
    assert sum(1 for _ in DirectoryContext(context).walk()) >= 100_100
