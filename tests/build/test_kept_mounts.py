"""Cache mounts in a registry: what one machine leaves, the next begins with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import trio

from asyncbuild.build.request import MountPlace
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from asyncbuild.report.events import WarningRaised
from support.builds import HOST, Recorder, World, add_busybox, requests_of
from support.registry import DockerRegistry

PLACE = MountPlace(Reference.parse_repository(f"{HOST}/ci/mounts"))
FIRST = f"""\
FROM {HOST}/base/busybox
RUN --mount=type=cache,target=/c --mount=type=cache,id=other,target=/d \\
    cat /c/kept /d/kept 2>/dev/null; \\
    test -e /c/kept || (echo from-c > /c/kept; chown 7:8 /c/kept; ln -s kept /c/link; \\
    chmod 0750 /c; touch -d @1700000000 /c/kept; echo from-d > /d/kept)
"""
LATER = FIRST + "RUN --mount=type=cache,target=/c stat -c '%u:%g %a %Y %N' /c /c/kept /c/link\n"


@pytest.fixture
def world(shm_path: Path) -> World:
    """A double with a busybox base."""
    world = World.below(shm_path)
    add_busybox(world.double)
    return world


def build(world: World, dockerfile: str, place: MountPlace = PLACE) -> tuple[str, list[str]]:
    """What the RUNs printed, and the warnings."""
    recorder = Recorder()
    request = replace(
        world.request(dockerfile, "app:1", use_cache=False),
        cache_mounts_from=(place,),
        cache_mounts_to=(place,),
    )

    async def run() -> None:
        await world.build(request, recorder=recorder)

    trio.run(run)
    assert world.wrong() == []
    return recorder.output(), [event.text for event in recorder.of(WarningRaised)]


def saved(world: World) -> dict[str, tuple[str, Digest]]:
    """The tag and the layer of each cache that the registry has, by its id."""
    found = {}
    for tag, digest in world.double.tags.get("ci/mounts", {}).items():
        document = json.loads(world.double.manifests["ci/mounts"][digest][1])
        layer = Digest.parse(document["layers"][0]["digest"])
        found[document["annotations"]["dev.asyncbuild.mount.id"]] = (tag, layer)
    return found


def another_machine(world: World) -> None:
    """A store that has nothing."""
    shutil.rmtree(world.store)
    world.double.log.clear()


def test_the_next_machine_begins_with_it(world: World) -> None:
    """Contents, owners, modes, times and links arrive; each cache is fetched once."""
    assert build(world, FIRST) == ("", [])
    assert set(saved(world)) == {"/c", "other"}
    another_machine(world)
    output, warnings = build(world, LATER)
    assert warnings == []
    lines = output.splitlines()
    assert lines[:2] == ["from-c", "from-d"]
    assert lines[2].startswith("0:0 750 ")
    assert lines[3].startswith("7:8 644 1700000000 ")
    assert lines[4].replace("'", "").endswith("/c/link -> kept")
    for _, layer in saved(world).values():
        asked = f"GET /v2/ci/mounts/blobs/{layer}"
        assert requests_of(world.double).count(asked) == 1


def test_what_did_not_change_is_not_sent(world: World) -> None:
    """A second machine sends nothing; a change is sent, of that cache alone."""
    build(world, FIRST)
    before = saved(world)
    another_machine(world)
    build(world, FIRST)
    assert [line for line in requests_of(world.double, "PUT", "POST") if "mounts" in line] == []
    build(world, FIRST + "RUN --mount=type=cache,id=other,target=/x echo more > /x/more\n")
    after = saved(world)
    assert after["/c"] == before["/c"]
    assert after["other"] != before["other"]
    raw = world.double.blobs["ci/mounts"][after["other"][1]]
    with tarfile.open(fileobj=BytesIO(raw)) as tar:
        assert sorted(tar.getnames()) == ["kept", "more"]


def test_a_cache_that_is_here_is_not_asked_for(world: World) -> None:
    """The registry's copy is for machines that have none."""
    build(world, FIRST)
    tag, layer = saved(world)["/c"]
    world.double.log.clear()
    output, _ = build(world, FIRST)
    assert "from-c" in output
    assert f"GET /v2/ci/mounts/blobs/{layer}" not in requests_of(world.double)
    assert tag.startswith("m-")


@pytest.mark.parametrize("how", ["bytes", "layer", "manifest"])
def test_damage_is_an_empty_cache(world: World, how: str) -> None:
    """A warning, an empty cache, and a build that is done; the other cache is as it was."""
    build(world, FIRST)
    tag, layer = saved(world)["/c"]
    blobs = world.double.blobs["ci/mounts"]
    match how:
        case "bytes":
            data = bytearray(blobs[layer])
            data[len(data) // 2] ^= 0x55
            blobs[layer] = bytes(data)
        case "layer":
            del blobs[layer]
        case _:
            digest = world.double.tags["ci/mounts"][tag]
            media, raw = world.double.manifests["ci/mounts"][digest]
            other = raw.replace(b"dev.asyncbuild.mount.root", b"dev.asyncbuild.mount.roof")
            world.double.manifests["ci/mounts"][Digest.of(other)] = (media, other)
            world.double.tags["ci/mounts"][tag] = Digest.of(other)
    another_machine(world)
    output, warnings = build(world, FIRST)
    assert output == "from-d\n"
    assert len(warnings) >= 1
    assert "the cache mount /c begins empty: " in warnings[0]


def test_ids_and_sizes(world: World) -> None:
    """Only the caches that are named; and none that is too large, which is said."""
    build(world, FIRST, replace(PLACE, ids=frozenset({"other"})))
    assert set(saved(world)) == {"other"}
    _, warnings = build(world, FIRST, replace(PLACE, most=3))
    assert any("the cache mount /c has " in text and "max-size=" in text for text in warnings)
    assert set(saved(world)) == {"other"}


@pytest.mark.integration
def test_two_runners_and_a_registry(
    registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """Two stores, docker-registry between them."""
    context = shm_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(FIRST.replace(f"{HOST}/base/busybox", busybox_base))
    place = f"type=registry,ref={registry.host}/ci/kept:main,id=/c,id=other"

    def run(store: str) -> subprocess.CompletedProcess[str]:
        words = ["--cache-mount-from", place, "--cache-mount-to", place, "--no-cache"]
        words += ["--insecure", registry.host, "--store", str(shm_path / store)]
        command = [sys.executable, "-m", "asyncbuild", "build", "--progress", "plain", *words]
        environ = {**os.environ, "HOME": str(shm_path)}
        done = subprocess.run(
            [*command, "-o", f"type=oci,dest={shm_path}/{store}.tar", str(context)],
            env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    def printed(done: subprocess.CompletedProcess[str]) -> list[str]:
        last = [line.split()[-1] for line in done.stderr.splitlines() if line.strip()]
        return [word for word in last if word in ("from-c", "from-d")]

    assert printed(run("one")) == []
    assert printed(run("two")) == ["from-c", "from-d"]
    _, _, raw = registry.call("GET", "/v2/ci/kept/tags/list")
    tags = json.loads(raw)["tags"]
    assert len(tags) == 2
    assert all(tag.startswith("main-m-") for tag in tags)
