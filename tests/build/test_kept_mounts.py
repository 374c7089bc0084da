"""Cache mounts in a registry: what one machine leaves, the next begins with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
import trio

from asyncbuild.build.request import MountPlace
from asyncbuild.cache.images import ImageDirectory
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.report.events import WarningRaised
from support.builds import HOST, Recorder, World, add_busybox, requests_of
from support.registry import DockerRegistry
from support.users import User

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


def another_store(world: World) -> None:
    """A machine that has nothing but the directory."""
    shutil.rmtree(world.store)
    world.double.log.clear()


def test_a_directory_keeps_them(world: World, shm_path: Path) -> None:
    """As a registry does: contents, owners, modes and times arrive; what is equal is not written again; and
    skopeo reads the layout.
    """
    kept = MountPlace(path=shm_path / "kept", ids=frozenset({"/c"}))
    assert build(world, FIRST, kept) == ("", [])
    another_store(world)
    output, warnings = build(world, LATER, kept)
    assert warnings == []
    lines = output.splitlines()
    assert lines[0] == "from-c"
    assert lines[1].startswith("0:0 750 ")
    assert lines[2].startswith("7:8 644 1700000000 ")
    assert [line for line in requests_of(world.double) if "mounts" in line] == []
    (entry,) = json.loads((shm_path / "kept/index.json").read_text())["manifests"]
    name = entry["annotations"]["org.opencontainers.image.ref.name"]
    assert name.startswith("m-")
    before = sorted((path.name, path.stat().st_ino) for path in (shm_path / "kept").rglob("*"))
    build(world, FIRST, kept)
    assert before == sorted(
        (path.name, path.stat().st_ino) for path in (shm_path / "kept").rglob("*")
    )
    command = ["skopeo", "inspect", "--raw", f"oci:{shm_path}/kept:{name}"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    digest = json.loads(raw)["layers"][0]["digest"].partition(":")[2]
    with tarfile.open(shm_path / "kept/blobs/sha256" / digest) as tar:
        assert sorted(tar.getnames()) == ["kept", "link"]


def test_a_directory_does_not_grow(world: World, shm_path: Path) -> None:
    """The content that was saved before goes, once it is older than any build that might name it."""
    kept = MountPlace(path=shm_path / "kept", ids=frozenset({"/c"}))
    build(world, FIRST, kept)
    blobs = shm_path / "kept/blobs/sha256"
    first = {path.name for path in blobs.iterdir()}
    for path in blobs.iterdir():
        os.utime(path, (1, 1))
    build(world, FIRST + "RUN --mount=type=cache,target=/c echo more > /c/more\n", kept)
    now = {path.name for path in blobs.iterdir()}
    assert len(first) == len(now) == 3
    assert len(first & now) == 1, "the configuration, which is always the same"


@pytest.mark.parametrize("how", ["blob", "manifest", "gone", "index"])
def test_a_damaged_directory_is_an_empty_cache(world: World, shm_path: Path, how: str) -> None:
    """A warning says so, and the build is done; what it made is saved in its place where that can be."""
    kept = MountPlace(path=shm_path / "kept", ids=frozenset({"/c"}))
    build(world, FIRST, kept)
    blobs = shm_path / "kept/blobs/sha256"
    (entry,) = json.loads((shm_path / "kept/index.json").read_text())["manifests"]
    manifest = blobs / entry["digest"].partition(":")[2]
    layer = blobs / json.loads(manifest.read_text())["layers"][0]["digest"].partition(":")[2]
    match how:
        case "blob":
            data = bytearray(layer.read_bytes())
            data[len(data) // 2] ^= 0x55
            layer.write_bytes(data)
        case "manifest":
            manifest.write_text("{}")
        case "gone":
            layer.unlink()
        case _:
            (shm_path / "kept/index.json").write_text("nothing")
    another_store(world)
    output, warnings = build(world, FIRST, kept)
    assert output == ""
    assert "the cache mount /c begins empty: " in warnings[0]


def test_builds_at_once_and_a_prune(world: World, shm_path: Path) -> None:
    """Three builds save their caches in one directory while it is pruned of everything: all of them are done,
    and what is listed afterwards is whole.
    """
    kept = MountPlace(path=shm_path / "kept")
    directory = ImageDirectory(shm_path / "kept")
    directory.prepare()
    texts = [FIRST.replace("id=other", f"id=other-{number}") for number in range(3)]
    recorder = Recorder()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number, text in enumerate(texts):
                request = world.request(text, f"app:{number}", cache_mounts_to=(kept,))
                nursery.start_soon(partial(world.build, recorder=recorder), request)
            for _ in range(20):
                await trio.to_thread.run_sync(directory.prune, float("inf"), time.time() + 7200)
                await trio.sleep(0.05)

    trio.run(main)
    for entry in directory.entries():
        manifest = directory.manifest(entry.descriptor.digest)
        assert isinstance(manifest, Manifest)
        assert all(map(directory.has, (*manifest.layers, manifest.config)))


def test_an_owner_that_cannot_be_set_is_recorded(shm_path: Path) -> None:
    """For an ordinary user the directory of a cache belongs to whom the saved one says, as files do."""
    script = """if True:
        import sys
        from pathlib import Path
        from asyncbuild.build.kept_mounts import pour
        from asyncbuild.layers.changeset import Entry, Kind
        from asyncbuild.layers.records import set_owner_and_mode
        from asyncbuild.layers.snapshot import entry_of
        saved, tree = (Path(sys.argv[1], name) for name in ("saved", "tree"))
        for path in (saved, tree):
            path.mkdir(parents=True)
        (saved / "file").write_text("kept")
        set_owner_and_mode(str(saved), Entry("", Kind.DIRECTORY, 0o2750, 7, 8))
        pour(saved, tree)
        found = entry_of(str(tree), "")
        print(oct(found.mode), found.uid, found.gid, (tree / "file").read_text())
    """
    user = User.below(shm_path, subordinate=False)
    command = user.words(sys.executable, "-c", script, user.home / "place")
    done = subprocess.run(
        command, env=user.environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout == "0o2750 7 8 kept\n"


def test_what_a_killed_build_left_in_a_directory(world: World) -> None:
    """A blob half written is removed by the next build that saves a cache there."""
    kept = world.store.with_name("mounts")
    (kept / "tmp").mkdir(parents=True)
    (kept / "tmp" / f"sha256-{64 * '0'}").write_bytes(b"half")
    build(world, FIRST, MountPlace(path=kept))
    assert list((kept / "tmp").iterdir()) == []
    assert len(json.loads((kept / "index.json").read_bytes())["manifests"]) == 2


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
