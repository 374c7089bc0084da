"""Build checks during a build: told once, with what base and context say, and as errors where that is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from asyncbuild.errors import DockerfileError
from asyncbuild.report.events import WarningRaised
from support.builds import HOST, Recorder, World, add_image
from support.images import Image

BASE = f"{HOST}/base/empty"


@pytest.fixture
def world(shm_path: Path) -> World:
    """A world with a base that has a variable, a shell and nothing else."""
    made = World.below(shm_path)
    config = {"Env": ["PATH=/bin", "KNOWN=x"], "Shell": ["/bin/sh", "-c"]}
    add_image(made.double, "base/empty", Image((), config))
    return made


def warnings(world: World, dockerfile: str, *names: str, **more: object) -> list[tuple[str, int]]:
    """The rules that a build tells, and their lines."""
    recorder = Recorder()

    async def build() -> None:
        await world.build(world.request(dockerfile, *names, **more), recorder=recorder)

    trio.run(build)
    found: list[WarningRaised] = recorder.of(WarningRaised)
    return [
        (item.text.rpartition("(")[2].rstrip(")"), item.location.line if item.location else 0)
        for item in found
    ]


def test_each_finding_is_told_once(world: World) -> None:
    """What is known at once comes first; nothing is told again when the base is known."""
    text = f"FROM {BASE} AS Name\nENV a b\nLABEL x=$UNKNOWN y=$KNOWN\nCMD in a shell\n"
    assert warnings(world, text, "out") == [
        ("StageNameCasing", 1),
        ("LegacyKeyValueFormat", 2),
        ("UndefinedVar", 3),
    ]


def test_the_context_counts(world: World) -> None:
    """What .dockerignore leaves out is found; a pattern that then finds nothing fails nothing."""
    world.write({".dockerignore": "gone*\n", "there": "x", "gone": "x"})
    text = "FROM scratch\nCOPY there gone* /x/\n"
    assert warnings(world, text, "out") == [("CopyIgnoredFile", 2)]


def test_errors_before_anything_is_pushed(world: World) -> None:
    """With error=true a finding ends the build, early or late; no tag appears."""
    early = f"# check=error=true\nFROM {BASE}\nENV a b\n"
    late = f"# check=error=true\nFROM {BASE}\nLABEL x=$UNKNOWN\n"
    for text in (early, late):
        with pytest.raises(DockerfileError, match="build checks"):
            warnings(world, text, "out")
    tags = [
        request for request in world.double.log if request.path.endswith("out/manifests/latest")
    ]
    assert [request for request in tags if request.method == "PUT"] == []


def test_checks_can_be_left_out(world: World) -> None:
    """The directive and the build argument hold for builds as for `asyncbuild check`."""
    text = f"FROM {BASE}\nENV a b\n"
    assert warnings(world, f"# check=skip=LegacyKeyValueFormat\n{text}", "out") == []
    given = {"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}
    assert warnings(world, text, "out", build_args=given) == []


def test_triggers_define_variables(world: World) -> None:
    """What ONBUILD of the base defines is defined."""
    config = {"Env": ["PATH=/bin"], "OnBuild": ["ENV LATER=1"]}
    add_image(world.double, "base/trigger", Image((), config))
    text = f"FROM {HOST}/base/trigger\nLABEL x=$LATER\n"
    assert warnings(world, text, "out") == []
