"""What a cache in a registry tells of its entries. Registries that do not delete, or do not let tags be
moved, say so before anything is gone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from asyncbuild.build.metadata import ImageState
from asyncbuild.build.outcome import one_error
from asyncbuild.build.outline import outline_stage
from asyncbuild.build.request import CachePlace, MountPlace
from asyncbuild.cache.upkeep import CacheEntry, Kind, list_entries, remove_entries
from asyncbuild.cli import main
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import RegistryError
from asyncbuild.image.manifest import Descriptor, Index, parse_manifest
from asyncbuild.image.reference import Reference
from asyncbuild.plan.planner import PlanRequest, make_plan
from asyncbuild.plan.scope import StageScope
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_transport import DoubleTransport
from support.builds import (
    AMD64,
    CREATED,
    HOST,
    World,
    add_busybox,
    add_image,
    requests_of,
)


@pytest.fixture
def double(shm_path: Path) -> RegistryDouble:
    """A registry with a cache of two entries in one scope."""
    world = World.below(shm_path)
    world.write({"file": "text\n"})
    place = CachePlace(Reference.parse(f"{HOST}/cache:main"), everything=True)
    world.run("FROM scratch\nCOPY file /a\nCOPY file /b\n", "app:1", cache_to=(place,))
    world.double.log.clear()
    return world.double


async def prune_all(double: RegistryDouble) -> None:
    """Remove every entry."""
    settings = RegistrySettings(transport=DoubleTransport(double), chance=random.Random(7))
    async with Registries(settings) as registries:
        client = registries.client(HOST)
        entries = await list_entries(client, "cache")
        assert [entry.scopes for entry in entries] == [("main",), ("main",)]
        await remove_entries(client, "cache", entries)


def refusal(double: RegistryDouble) -> str:
    """What the error of a prune says, with its hint."""
    with pytest.raises(RegistryError) as raised, one_error():
        trio.run(prune_all, double)
    return raised.value.render()


def test_a_registry_without_delete(double: RegistryDouble) -> None:
    """The double deletes nothing (405), as many registries do not."""
    assert "does not delete images on request" in refusal(double)


def test_immutable_tags(double: RegistryDouble) -> None:
    """The index cannot be rewritten, so nothing that it lists is deleted."""
    double.quirks = replace(double.quirks, immutable=(400, "tag is immutable"))
    assert "nothing was deleted: the index main lists the entries" in refusal(double)
    assert requests_of(double, "DELETE") == []


EVERY_KIND = f"""\
FROM {HOST}/base/busybox
ARG TOKEN
RUN --mount=type=cache,target=/c \\
    echo $TOKEN > /c/f
COPY file /a
ADD https://me:password@nowhere.example/x.tar /
"""
TAGGED = MountPlace(Reference.parse_repository(f"{HOST}/cache:main"))


def listed(double: RegistryDouble) -> tuple[CacheEntry, ...]:
    """All entries."""

    async def ask() -> tuple[CacheEntry, ...]:
        settings = RegistrySettings(transport=DoubleTransport(double), chance=random.Random(7))
        async with Registries(settings) as registries:
            return await list_entries(registries.client(HOST), "cache")

    return trio.run(ask)


def test_what_an_entry_tells(shm_path: Path) -> None:
    """Each kind, with the step as it was written: no value of an argument, no password in a URL; and no key
    depends on that.
    """
    world = World.below(shm_path)
    world.write({"file": "text\n"})
    add_busybox(world.double)
    place = CachePlace(Reference.parse(f"{HOST}/cache:main"), everything=True)
    more = {"cache_to": (place,), "cache_mounts_to": (TAGGED,), "build_args": {"TOKEN": "k-9-z-7"}}
    text = EVERY_KIND.rpartition("ADD")[0]
    now = CREATED + 1_000_000
    world.run(text, "app:1", now=now, **more)
    entries = {entry.kind: entry for entry in listed(world.double)}
    found = {(entry.kind, entry.about, entry.scopes) for entry in listed(world.double)}
    assert found == {
        (Kind.STEP, "RUN --mount=type=cache,target=/c echo $TOKEN > /c/f", ("main",)),
        (Kind.STEP, "COPY file /a", ("main",)),
        (Kind.MOUNT, "/c", ("main",)),
        (Kind.LISTING, "", ()),
    }
    assert {entry.written for entry in entries.values()} == {now}, "not the image's own time"
    assert min(entry.size for entry in entries.values()) > 0
    raws = [raw for _, raw in world.double.manifests["cache"].values()]
    assert not any(b"k-9-z-7" in raw for raw in raws)
    again = world.run(
        text.replace("COPY file", "COPY   --link=false file"), "app:1", now=now, **more
    )
    assert again.statistics.steps_cached == 2


def test_a_password_in_a_step_is_not_told() -> None:
    """The text of an ADD from a URL with a login."""
    plan = make_plan(
        parse_dockerfile(EVERY_KIND.encode(), "Dockerfile"), PlanRequest(AMD64, AMD64, {})
    )
    stage = plan.all_stages[0]
    start = (ImageState.scratch(AMD64), StageScope.start(plan.arguments, {}))
    outline = outline_stage(stage, stage.steps, None, start, "")
    assert outline.steps[-1].about == "ADD https://me:xxxxx@nowhere.example/x.tar /"


def test_one_manifest_under_two_tags_is_one_entry(shm_path: Path) -> None:
    """Deleting it would delete both, so it is of two scopes, and pruning one of them leaves it alone."""
    world = World.below(shm_path)
    add_busybox(world.double)
    text = EVERY_KIND.partition("COPY")[0]
    other = MountPlace(Reference.parse_repository(f"{HOST}/cache:other"))
    world.run(text, "app:1", cache_mounts_to=(TAGGED, other), now=CREATED)
    (mount,) = listed(world.double)
    assert mount.scopes == ("main", "other")


@pytest.mark.parametrize("tag", ["k-{}", "f-{}", "m-{}", "main-k-{}", "k-1"])
def test_what_is_no_entry_is_left_out(shm_path: Path, tag: str) -> None:
    """An image in the repository is none, whatever it is called, and an index of images is no scope."""
    double = RegistryDouble()
    image = add_busybox(double, "cache")
    add_image(double, "cache", image, tag.format("0" * 64))
    made = parse_manifest(image.manifest())
    index = Index.make((Descriptor(made.media_type, made.digest, len(made.raw), AMD64),))
    double.add_manifest("cache", "multi", index)
    assert listed(double) == ()


def age_blobs(directory: Path) -> set[str]:
    """Let every blob have come long ago; their names."""
    blobs = list((directory / "blobs/sha256").iterdir())
    for path in blobs:
        os.utime(path, (1, 1))
    return {path.name for path in blobs}


def test_a_directory_of_results(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Old results go with the blobs that only they have; what is young is still a hit, and a dry run changes
    nothing.
    """
    place = CachePlace(path=shm_path / "kept", everything=True)
    world = World.below(shm_path)
    world.write({"file": "text\n", "old": "old\n"})
    now = int(time.time())
    shared = "FROM scratch\nCOPY file /shared\n"
    world.run(f"{shared}COPY old /old\n", "app:1", cache_to=(place,), now=now - 30 * 86400)
    world.run(f"{shared}COPY file /new\n", "app:1", cache_to=(place,), now=now, use_cache=False)
    before = age_blobs(shm_path / "kept")
    assert len(before) == 3
    assert main(["cache", "ls", str(shm_path / "kept")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert sorted(line.partition(" d  ")[2] for line in shown[:-1]) == [
        "COPY file /new",
        "COPY file /shared",
        "COPY old /old",
    ]
    old = ["cache", "prune", str(shm_path / "kept"), "--older-than", "14d"]
    assert main([*old, "--dry-run"]) == 0
    assert main(old) == 0
    first, second = capsys.readouterr().out.split("would be removed\n")
    assert first.startswith("step")
    assert second.splitlines()[0] == first.splitlines()[0]
    assert second.startswith("step")
    assert "COPY old /old" in second
    left = {path.name for path in (shm_path / "kept/blobs/sha256").iterdir()}
    assert len(before - left) == 1
    shutil.rmtree(world.store)
    again = world.run(f"{shared}COPY file /new\n", "app:2", cache_from=(place,))
    assert again.statistics.steps_cached == 2
    assert main(["cache", "prune", str(shm_path / "kept"), "--all"]) == 0
    assert list((shm_path / "kept/results").iterdir()) == []


def test_mounts_and_results_in_one_directory(shm_path: Path) -> None:
    """What is saved of a cache mount does not take the results' blobs away, however old they are."""
    kept = shm_path / "kept"
    place = CachePlace(path=kept, everything=True)
    world = World.below(shm_path)
    world.write({"file": "text\n"})
    add_busybox(world.double)
    text = (
        f"FROM {HOST}/base/busybox\nRUN --mount=type=cache,target=/c date > /c/f; echo 1 > /one\n"
    )
    more = {"cache_to": (place,), "cache_mounts_to": (MountPlace(path=kept),)}
    world.run(text, "app:1", **more)
    before = age_blobs(kept)
    world.run(f"{text}RUN --mount=type=cache,target=/c echo more > /c/more\n", "app:2", **more)
    named = {
        layer["descriptor"]["digest"].partition(":")[2]
        for record in (kept / "results").iterdir()
        for layer in [json.loads(record.read_text())["layer"]]
    }
    left = {path.name for path in (kept / "blobs/sha256").iterdir()}
    assert named <= left
    assert before - left, "but the mount's content that was saved before went"
