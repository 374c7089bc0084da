"""What steps leave in a VOLUME: kept as in BuildKit, or lost from layers as in kaniko.

kaniko's rules are those of its source (pkg/commands/volume.go, pkg/util/fs_util.go): from a VOLUME on, what is
below the path is in no snapshot of that stage; the directory itself is.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from asyncbuild.build.request import CachePlace
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from support.builds import HOST, World, add_busybox, manifest_of

DOCKERFILE = f"""\
FROM {HOST}/base/busybox
RUN mkdir /v && echo before > /v/before
ENV WHERE=/v
VOLUME $WHERE /w
RUN echo lost > /v/lost && mkdir -p /v/deep /w && echo lost > /v/deep/lost && echo kept > /kept
COPY file /w/copied
COPY file /else/where
RUN test -e /v/lost && rm /v/before && test -e /w/copied
"""
PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)


@pytest.fixture
def world(shm_path: Path) -> World:
    """A place to build in."""
    made = World.below(shm_path)
    add_busybox(made.double)
    made.write({"file": "content"})
    return made


def names(world: World, count: int) -> list[list[str]]:
    """The names in each of the topmost ``count`` layers of what was pushed, read by tarfile."""
    found = []
    for layer in manifest_of(world.double, "out", "1")["layers"][-count:]:
        data = gzip.decompress(world.double.blobs["out"][Digest.parse(layer["digest"])])
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found.append(sorted(member.name.strip("/") for member in tar))
    return found


def built(world: World, dockerfile: str = DOCKERFILE, **more: Any) -> dict[str, Any]:
    """The manifest of a build."""
    world.run(dockerfile, "out:1", **more)
    return manifest_of(world.double, "out", "1")


KANIKO = [["v", "v/before"], ["kept", "v", "w"], ["w"], ["else", "else/where"], ["v"]]
BUILDKIT = [
    ["v", "v/before"],
    ["kept", "v", "v/deep", "v/deep/lost", "v/lost", "w"],
    ["w", "w/copied"],
    ["else", "else/where"],
    ["v", "v/.wh.before"],
]


def test_kept_as_in_buildkit(world: World) -> None:
    """A VOLUME is configuration, and nothing else."""
    built(world)
    assert names(world, 5) == BUILDKIT


def test_lost_as_in_kaniko(world: World) -> None:
    """RUN and COPY, additions and deletions; later steps see everything, and the configuration has it."""
    built(world, volumes_are_lost=True)
    assert names(world, 5) == KANIKO


def test_a_stage_has_volumes_of_its_own(world: World) -> None:
    """Those of the stage or image that it is FROM hide nothing (kaniko's list begins anew)."""
    built(
        world,
        f"FROM {HOST}/base/busybox AS a\nVOLUME /v\nRUN mkdir /v && echo 1 > /v/1\n"
        "FROM a\nRUN mkdir -p /v && echo 2 > /v/2",
        volumes_are_lost=True,
    )
    assert names(world, 2) == [["v"], ["v", "v/2"]]


def test_one_snapshot(world: World) -> None:
    """With --single-snapshot too, whatever stood there before the VOLUME."""
    built(world, volumes_are_lost=True, squash=True)
    assert names(world, 1) == [["else", "else/where", "kept", "v", "w"]]


def test_neither_takes_the_others_layers(world: World, shm_path: Path) -> None:
    """Layers with less in them have other keys, in the store and in a registry; each way hits its own."""
    kept = built(world, cache_to=(PLACE,))
    lost = built(world, volumes_are_lost=True, cache_to=(PLACE,))
    assert names(world, 5) == KANIKO
    assert built(world) == kept
    assert built(world, volumes_are_lost=True) == lost
    other = World(world.double, shm_path / "other", world.context)
    assert built(other, cache_from=(PLACE,)) == kept
    assert built(other, volumes_are_lost=True, cache_from=(PLACE,)) == lost
