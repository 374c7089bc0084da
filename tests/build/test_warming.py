"""Base images in a directory: filled by many warmers, read before any registry, never wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from asyncbuild.build.warming import WarmedImage, Warming, warm_images
from asyncbuild.cache.images import FETCHED, REF_NAME, ImageDirectory
from asyncbuild.cli import main
from asyncbuild.errors import ImageNotFound, IntegrityError, StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor, Index, parse_manifest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.report.events import WarningRaised
from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest
from asyncbuild.testing.faults import Action, Corrupt, Respond, Rule, Shorten
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_transport import DoubleTransport
from support.builds import AMD64, HOST, GatedDouble, Recorder, World, add_image, requests_of
from support.images import Image, Layer, Node, directory
from support.registry import DockerRegistry
from support.sources import Page, WebServer

ARM64 = Platform("linux", "arm64")
NOISE = random.Random(4)
SHARED = Layer.of(directory("lib"), Node("lib/shared", content=NOISE.randbytes(120_000)))
ONE = Image((SHARED, Layer.of(Node("one.txt", content=NOISE.randbytes(40_000)))))
TWO = Image((SHARED, Layer.of(Node("two.txt", content=NOISE.randbytes(40_000)))))
DOCKERFILE = f"FROM {HOST}/base/one\nCOPY --from={HOST}/base/two /two.txt /copied\n"
READS = f"FROM scratch\nCOPY --from={HOST}/base/one /one.txt /lib/shared /\n"


def warm(
    double: RegistryDouble,
    folder: Path,
    *names: str,
    platforms: tuple[Platform, ...] = (AMD64,),
    recorder: Recorder | None = None,
    force: bool = False,
) -> tuple[WarmedImage, ...]:
    """Bring images of the double into a directory."""
    settings = RegistrySettings(transport=DoubleTransport(double), chance=random.Random(7))
    images = [(Reference.parse(f"{HOST}/{name}"), form) for name in names for form in platforms]

    async def run() -> tuple[WarmedImage, ...]:
        reporter = recorder or Recorder()
        return await warm_images(Warming(images, folder, force), settings, reporter)

    return trio.run(run)


@pytest.fixture
def world(shm_path: Path) -> World:
    """A double with two images that share a layer."""
    world = World.below(shm_path)
    add_image(world.double, "base/one", ONE)
    add_image(world.double, "base/two", TWO)
    return world


@pytest.fixture
def warmed(world: World, shm_path: Path) -> Path:
    """A folder that has both; what the registry was asked until then is forgotten."""
    warm(world.double, shm_path / "warm", "base/one", "base/two")
    world.double.log.clear()
    return shm_path / "warm"


def build(world: World, dockerfile: str, cache_dir: Path, **more: object) -> tuple[Digest, str]:
    """The image's digest, and all warnings as one text."""
    recorder = Recorder()
    request = replace(world.request(dockerfile, "app:1"), cache_dir=cache_dir, **more)  # type: ignore[arg-type]

    async def run() -> Digest:
        return (await world.build(request, recorder=recorder)).manifest.digest

    digest = trio.run(run)
    assert world.wrong() == []
    return digest, "\n".join(event.text for event in recorder.of(WarningRaised))


def base_requests(world: World) -> list[str]:
    """What was asked of the bases' repositories, but for mounts from them."""
    return [line for line in requests_of(world.double) if "/v2/base/" in line]


def entries_of(folder: Path) -> list[dict[str, object]]:
    """The entries of an index."""
    found: list[dict[str, object]] = json.loads((folder / "index.json").read_text())["manifests"]
    return found


def spoil(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


def test_a_tag_costs_one_request(world: World, warmed: Path) -> None:
    """A tag is asked for once, by HEAD; everything else comes from the directory."""
    digest, warnings = build(world, READS, warmed)
    assert base_requests(world) == ["HEAD /v2/base/one/manifests/latest"]
    assert warnings == ""
    shutil.rmtree(world.store)
    without, _ = build(world, READS, world.context / "nowhere", use_cache=False)
    assert digest == without


def test_a_digest_costs_no_request(world: World, warmed: Path) -> None:
    """A digest says all; the registry of the base is not asked at all."""
    digest = Digest.of(ONE.manifest())
    build(world, READS.replace("base/one", f"base/one:latest@{digest}"), warmed)
    assert base_requests(world) == []


def test_a_base_and_a_source(world: World, warmed: Path) -> None:
    """The base of a stage and a source of a COPY, one with a layer of the other."""
    build(world, DOCKERFILE, warmed)
    assert sorted(base_requests(world)) == [
        "HEAD /v2/base/one/manifests/latest",
        "HEAD /v2/base/two/manifests/latest",
    ]


def test_a_tag_that_moved_is_fetched(world: World, warmed: Path) -> None:
    """What the tag means now is what is built upon."""
    newer = replace(ONE, layers=(SHARED, Layer.of(Node("one.txt", content=b"newer\n"))))
    add_image(world.double, "base/one", newer)
    build(world, READS, warmed)
    got = requests_of(world.double, "GET")
    assert f"GET /v2/base/one/blobs/{newer.layers[1].digest}" in got
    assert f"GET /v2/base/one/blobs/{SHARED.digest}" not in got  # that one did not move


def test_an_image_that_was_not_warmed(world: World, shm_path: Path) -> None:
    """It is asked for as ever, and nothing is said."""
    warm(world.double, shm_path / "warm", "base/two")
    world.double.log.clear()
    _, warnings = build(world, READS, shm_path / "warm")
    assert base_requests(world)[0] == "GET /v2/base/one/manifests/latest"
    assert warnings == ""


def test_an_expired_image(world: World, warmed: Path) -> None:
    """It comes from the registry, and a line says so."""
    index = json.loads((warmed / "index.json").read_text())
    for entry in index["manifests"]:
        entry["annotations"][FETCHED] = "2023-01-01T00:00:00Z"
    (warmed / "index.json").write_text(json.dumps(index))
    _, warnings = build(world, READS, warmed)
    assert f"GET /v2/base/one/blobs/{SHARED.digest}" in base_requests(world)
    assert "2023-01-01 00:00 UTC, older than --cache-ttl allows" in warnings
    warm(world.double, warmed, "base/one")  # which fetches nothing, and makes it young again
    shutil.rmtree(world.store)
    world.double.log.clear()
    _, warnings = build(world, READS, warmed, use_cache=False)
    assert (warnings, requests_of(world.double, "GET")) == ("", [])


@pytest.mark.parametrize("how", ["changed", "shorter", "longer", "gone"])
@pytest.mark.parametrize("what", ["layer", "config", "manifest"])
def test_damage(world: World, warmed: Path, what: str, how: str) -> None:
    """Damage is found while reading; the registry gives what is right, and a line says so."""
    digest = {
        "layer": SHARED.digest,
        "config": str(Digest.of(ONE.configuration())),
        "manifest": str(Digest.of(ONE.manifest())),
    }[what]
    place = warmed / "blobs" / digest.replace(":", "/")
    match how:
        case "changed":
            spoil(place)
        case "shorter":
            os.truncate(place, place.stat().st_size // 2)
        case "longer":
            place.write_bytes(place.read_bytes() + b"more")
        case _:
            place.unlink()
    found, warnings = build(world, READS, warmed)
    assert any(digest in line for line in requests_of(world.double, "GET")) or what == "manifest"
    assert f"cache directory {warmed}: " in warnings or how == "gone"
    shutil.rmtree(world.store)
    assert found == build(world, READS, world.context / "nowhere", use_cache=False)[0]


@pytest.mark.parametrize("action", [Corrupt(50), Shorten(50), Respond(200, b"<html>")], ids=str)
def test_damage_on_the_way(world: World, shm_path: Path, action: Action) -> None:
    """A blob that comes damaged is fetched once more, with a line that says so; twice is an error."""
    folder, recorder = shm_path / "warm", Recorder()
    world.double.faults.add(Rule(action, "GET", "/blobs/"))
    (image,) = warm(world.double, folder, "base/one", recorder=recorder)
    assert str(image.digest) == str(Digest.of(ONE.manifest()))
    assert "fetching it once more" in "\n".join(item.text for item in recorder.of(WarningRaised))
    assert list((folder / "tmp").iterdir()) == []
    world.double.faults.add(Rule(action, "GET", "/blobs/", times=None))
    with pytest.raises(IntegrityError):
        warm(world.double, shm_path / "other", "base/one")
    assert list((shm_path / "other/tmp").iterdir()) == []


def test_renamed_entries(world: World, warmed: Path) -> None:
    """Names that were exchanged, and blobs that were, lead to no other image."""
    right, _ = build(world, READS, warmed)
    shutil.rmtree(world.store)
    index = json.loads((warmed / "index.json").read_text())
    one, two = index["manifests"]
    one["annotations"], two["annotations"] = two["annotations"], one["annotations"]
    (warmed / "index.json").write_text(json.dumps(index))
    assert build(world, READS, warmed, use_cache=False)[0] == right
    shutil.rmtree(world.store)
    blobs = warmed / "blobs/sha256"
    first, second = (blobs / Digest.of(item.manifest()).hex for item in (ONE, TWO))
    first.rename(blobs / "aside")
    second.rename(first)
    (blobs / "aside").rename(second)
    digest, warnings = build(world, READS, warmed, use_cache=False)
    assert digest == right
    assert "holds other bytes" in warnings


@pytest.mark.parametrize("content", [None, "sha256:4590", "oci-layout", "index.json"])
def test_foreign_directories(world: World, shm_path: Path, content: str | None) -> None:
    """What is no layout, or none that can be read, is not used, and a line says why."""
    folder = shm_path / "foreign"
    if content is not None:
        folder.mkdir()
        (folder / content).write_text("[]")
    _, warnings = build(world, READS, folder)
    assert f"{folder} is no OCI layout" in warnings


def test_a_layout_of_another_program(
    registry: DockerRegistry, world: World, shm_path: Path
) -> None:
    """What skopeo wrote is used as well, and its age is that of its files."""
    host = _fill(registry)
    target = f"oci:{shm_path}/layout:any"
    _skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{host}/base/one", target)
    index = json.loads((shm_path / "layout/index.json").read_text())
    digest = index["manifests"][0]["digest"]
    build(world, READS.replace("base/one", f"base/one@{digest}"), shm_path / "layout")
    assert base_requests(world) == []


def test_a_read_only_file_system(world: World, warmed: Path) -> None:
    """Nothing is written to it and no lock is needed."""
    with read_only(warmed):
        with pytest.raises(OSError, match="Read-only"):
            (warmed / "probe").touch()
        _, warnings = build(world, READS, warmed)
    assert base_requests(world) == ["HEAD /v2/base/one/manifests/latest"]
    assert warnings == ""
    with read_only(warmed), pytest.raises(StoreError, match="Read-only"):
        warm(world.double, warmed, "base/one")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a directory onto itself, read-only."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_platforms(shm_path: Path) -> None:
    """Both platforms of an index stand side by side; one that was not warmed comes from the registry."""
    world = World.below(shm_path)
    arm = Image((SHARED, Layer.of(Node("one.txt", content=b"arm\n"))), architecture="arm64")
    _add_index(world.double, {AMD64: ONE, ARM64: arm})
    folder = shm_path / "warm"
    warm(world.double, folder, "base/one")
    world.double.log.clear()
    build(world, READS, folder, platform=ARM64)
    assert f"GET /v2/base/one/blobs/{arm.layers[1].digest}" in base_requests(world)
    warm(world.double, folder, "base/one", platforms=(AMD64, ARM64))
    for platform in (AMD64, ARM64):
        shutil.rmtree(world.store)
        world.double.log.clear()
        build(world, READS, folder, platform=platform, use_cache=False)
        assert base_requests(world) == ["HEAD /v2/base/one/manifests/latest"]


def _add_index(double: RegistryDouble, images: dict[Platform, Image]) -> None:
    listed = []
    for platform, image in images.items():
        add_image(double, "base/one", image)
        made = parse_manifest(image.manifest())
        listed.append(Descriptor(made.media_type, made.digest, len(made.raw), platform))
    double.add_manifest("base/one", "latest", Index.make(tuple(listed)))


def test_warming_again_fetches_nothing(world: World, warmed: Path) -> None:
    """One request for each tag; ``force`` fetches everything, and mends what was damaged."""
    warm(world.double, warmed, "base/one", "base/two")
    assert sorted(requests_of(world.double)) == [
        "HEAD /v2/base/one/manifests/latest",
        "HEAD /v2/base/two/manifests/latest",
    ]
    spoil(warmed / "blobs" / SHARED.digest.replace(":", "/"))
    warm(world.double, warmed, "base/one", "base/two", force=True)
    assert ImageDirectory(warmed).document(Digest.parse(SHARED.digest)) == SHARED.data
    assert sum(SHARED.digest in line for line in requests_of(world.double, "GET")) >= 1


def test_images_are_fetched_side_by_side(shm_path: Path) -> None:
    """No layer is given before every layer of every image was asked for, the shared one once."""
    double = GatedDouble()
    add_image(double, "base/one", ONE)
    add_image(double, "base/two", TWO)
    layers = {layer.digest for image in (ONE, TWO) for layer in image.layers}

    def asked() -> set[str]:
        return {digest for digest in layers for line in requests_of(double) if digest in line}

    double.hold(
        lambda request: any(digest in request.path for digest in layers), lambda: asked() == layers
    )
    warm(double, shm_path / "warm", "base/one", "base/two")
    assert sum(SHARED.digest in line for line in requests_of(double)) == 1
    blobs = list((shm_path / "warm/blobs/sha256").iterdir())
    assert len(blobs) == len(layers) + 4  # and a manifest and a configuration of each
    assert list((shm_path / "warm/tmp").iterdir()) == []


def test_one_bad_image_is_a_warning(world: World, shm_path: Path) -> None:
    """The others are warmed; if all are bad, that is the error."""
    recorder = Recorder()
    done = warm(world.double, shm_path / "w", "base/one", "base/none", recorder=recorder)
    assert [image.reference.repository for image in done] == ["base/one"]
    (event,) = recorder.of(WarningRaised)
    assert "base/none:latest for linux/amd64 is not warmed" in event.text
    with pytest.raises(ImageNotFound):
        warm(world.double, shm_path / "w", "base/none", "base/nothing")


def test_prune_drops_what_is_old_and_keeps_what_is_shared(world: World, warmed: Path) -> None:
    """An entry that goes takes the blobs that only it has, once no warmer can be about to name them."""
    folder = ImageDirectory(warmed)
    now = time.time()
    index = json.loads((warmed / "index.json").read_text())
    index["manifests"][0]["annotations"][FETCHED] = "2023-01-01T00:00:00Z"
    gone = {one["digest"]: one for one in index["manifests"]}
    (warmed / "index.json").write_text(json.dumps(index))
    assert [e.since for e in folder.prune(now - 1000, now)] == [1672531200.0]
    assert len(entries_of(warmed)) == 1
    assert folder.blob(Digest.parse(next(iter(gone)))).exists()
    folder.prune(now - 1000, now + 7200)
    assert not folder.blob(Digest.parse(next(iter(gone)))).exists()
    assert folder.blob(Digest.parse(SHARED.digest)).exists()


class Meddling(RegistryDouble):
    """A double during one of whose answers somebody prunes the directory of everything, once."""

    def __init__(self, folder: Path, method: str, part: str) -> None:
        super().__init__()
        self._folder = folder
        self._when = (method, part)
        self.meddled = False

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer, but prune first if it is the request that was named."""
        method, part = self._when
        if not self.meddled and asked.method == method and part in asked.path:
            self.meddled = True
            later = time.time() + 7200  # by which no blob is young any more
            ImageDirectory(self._folder).prune(float("inf"), later)
        return await super().handle(asked, entry)


def test_prune_under_a_build(shm_path: Path) -> None:
    """What goes while a build counts on it comes from the registry."""
    double = Meddling(shm_path / "warm", "HEAD", "/v2/base/one/manifests/")
    double.meddled = True
    world = World.below(shm_path, double)
    add_image(double, "base/one", ONE)
    warm(double, shm_path / "warm", "base/one")
    double.meddled = False
    digest, _ = build(world, READS, shm_path / "warm")
    assert double.meddled
    assert list((shm_path / "warm/blobs/sha256").iterdir()) == []
    assert any("/blobs/" in line for line in requests_of(double, "GET"))
    shutil.rmtree(world.store)
    assert digest == build(world, READS, world.context / "nowhere", use_cache=False)[0]


def test_prune_under_a_warmer(shm_path: Path) -> None:
    """Blobs that go before an image names them are fetched again: the image that is listed is whole."""
    double = Meddling(shm_path / "warm", "GET", ONE.layers[1].digest)
    add_image(double, "base/one", ONE)
    add_image(double, "base/two", TWO)
    (shm_path / "warm").mkdir()
    ImageDirectory(shm_path / "warm").prepare()
    warm(double, shm_path / "warm", "base/two")
    warm(double, shm_path / "warm", "base/one")
    assert double.meddled
    assert [entry["digest"] for entry in entries_of(shm_path / "warm")] == [
        str(Digest.of(ONE.manifest()))
    ]
    for layer in ONE.layers:
        assert ImageDirectory(shm_path / "warm").document(Digest.parse(layer.digest)) == layer.data


def _age(folder: Path, name: str) -> None:
    """Let one image have been warmed long ago, and all blobs have come long ago."""
    index = json.loads((folder / "index.json").read_text())
    for entry in index["manifests"]:
        if name in entry["annotations"][REF_NAME]:
            entry["annotations"][FETCHED] = "2023-01-01T00:00:00Z"
    (folder / "index.json").write_text(json.dumps(index))
    for path in (folder / "blobs/sha256").iterdir():
        os.utime(path, (1, 1))


def test_ls_and_prune_of_a_directory(warmed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By age, with what only old images have; a dry run changes nothing; what is left is whole."""
    _age(warmed, "two")
    before = sorted(path.name for path in warmed.rglob("*"))
    assert main(["cache", "ls", str(warmed), "--format", "json"]) == 0
    two, one = json.loads(capsys.readouterr().out)
    assert (two["name"], two["written"]) == (f"{HOST}/base/two:latest", 1672531200)
    assert (one["name"], one["manifest"]) == (
        f"{HOST}/base/one:latest",
        str(Digest.of(ONE.manifest())),
    )
    assert one["size"] == len(ONE.manifest()) + len(ONE.configuration()) + sum(
        len(layer.data) for layer in ONE.layers
    )
    old = ["cache", "prune", str(warmed), "--older-than", "14d"]
    assert main([*old, "--dry-run"]) == 0
    assert "base/two:latest\n1 entries, " in capsys.readouterr().out
    assert sorted(path.name for path in warmed.rglob("*")) == before
    assert main(old) == 0
    assert "base/two:latest\n1 entries, " in capsys.readouterr().out
    assert [entry["digest"] for entry in entries_of(warmed)] == [str(Digest.of(ONE.manifest()))]
    blobs = {f"sha256:{path.name}" for path in (warmed / "blobs/sha256").iterdir()}
    documents = {str(Digest.of(data)) for data in (ONE.manifest(), ONE.configuration())}
    assert blobs == {*documents, *(layer.digest for layer in ONE.layers)}
    assert main(["cache", "prune", str(warmed), "--all"]) == 0
    assert entries_of(warmed) == []


def test_what_cannot_be_pruned(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that warm did not fill is an error, and is left as it is; so is a choice of nothing."""
    (shm_path / "index.json").write_text('{"manifests": []}')
    assert main(["cache", "prune", str(shm_path), "--all"]) == 74
    assert [path.name for path in shm_path.iterdir()] == ["index.json"]
    for words in (
        ["prune", str(shm_path)],
        ["ls", str(shm_path), "--scope", "main"],
        ["ls", str(shm_path), "--dry-run"],
        ["ls", str(shm_path), "--all"],
        ["ls", "reg.example/cache:tag"],
    ):
        assert main(["cache", *words]) == 2, capsys.readouterr().err


# Real programs


def _fill(registry: DockerRegistry) -> str:
    media = "application/vnd.oci.image.manifest.v1+json"
    for name, image in (("base/one", ONE), ("base/two", TWO)):
        for layer in image.layers:
            registry.put_blob(name, layer.digest, layer.data)
        configuration = image.configuration()
        registry.put_blob(name, str(Digest.of(configuration)), configuration)
        registry.put_manifest(name, "latest", media, image.manifest())
    return registry.host


def _command(folder: Path, host: str, *names: str) -> list[str]:
    images = [word for name in names for word in ("--image", f"{host}/{name}")]
    return [sys.executable, "-m", "asyncbuild", "warm", str(folder), *images, "--insecure", host]


def _skopeo(*words: str) -> str:
    return subprocess.run(["skopeo", *words], check=True, capture_output=True, text=True).stdout


@pytest.mark.integration
def test_two_warmers_at_once(registry: DockerRegistry, shm_path: Path) -> None:
    """Both end well, each blob is fetched once, disk is used once, and skopeo reads the layout."""
    host, folder = _fill(registry), shm_path / "warm"
    before = registry.mark()
    command = _command(folder, host, "base/one", "base/two")
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    told = [child.communicate()[0].decode() for child in started]
    assert [child.returncode for child in started] == [0, 0]
    assert (
        told[0]
        == told[1]
        == (
            f"{host}/base/one:latest {Digest.of(ONE.manifest())}\n"
            f"{host}/base/two:latest {Digest.of(TWO.manifest())}\n"
        )
    )
    blobs = [r.path for r in registry.requests(before) if r.method == "GET" and "/blobs/" in r.path]
    assert sum(path.endswith(SHARED.digest) for path in blobs) == 1
    size = sum(path.stat().st_size for path in (folder / "blobs/sha256").iterdir())
    union = {layer.digest: len(layer.data) for image in (ONE, TWO) for layer in image.layers}
    assert size < sum(union.values()) + 10_000
    for name, image in (("one", ONE), ("two", TWO)):
        seen = json.loads(_skopeo("inspect", f"oci:{folder}:{host}/base/{name}:latest"))
        assert seen["Layers"] == [layer.digest for layer in image.layers]
        copied = f"dir:{shm_path / name}"
        _skopeo("copy", "-q", f"oci:{folder}:{host}/base/{name}:latest", copied)


@pytest.mark.integration
def test_kill_9_leaves_nothing_to_be_seen(registry: DockerRegistry, shm_path: Path) -> None:
    """A warmer that is killed while a blob comes shows no image; the next one is done as if alone."""
    host, folder = _fill(registry), shm_path / "warm"
    place = ImageDirectory(folder)
    place.prepare()
    script = (
        "import sys, time; from pathlib import Path;"
        "from asyncbuild.cache.images import ImageDirectory;"
        "from asyncbuild.image.digest import Digest;"
        "held = ImageDirectory(Path(sys.argv[1])).reserve(Digest.parse(sys.argv[2]));"
        "held.path.write_bytes(b'half'); print('ready', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), SHARED.digest], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    command = _command(folder, host, "base/one")
    waiting = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # for the holder's blob
    other = folder / "blobs" / ONE.layers[1].digest.replace(":", "/")
    while not other.exists():
        assert waiting.poll() is None
        time.sleep(0.01)
    waiting.send_signal(signal.SIGKILL)
    waiting.wait()
    assert entries_of(folder) == []
    assert not place.blob(Digest.parse(SHARED.digest)).exists()
    holder.kill()
    holder.communicate()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert place.document(Digest.parse(SHARED.digest)) == SHARED.data
    assert [entry["digest"] for entry in entries_of(folder)] == [str(Digest.of(ONE.manifest()))]
    assert list((folder / "tmp").iterdir()) == []


@pytest.mark.integration
def test_warm_reads_dockerfiles(registry: DockerRegistry, shm_path: Path) -> None:
    """Images of all stages count, each once; names of stages, numbers and scratch do not."""
    host, folder = _fill(registry), shm_path / "warm"
    file = shm_path / "Dockerfile"
    file.write_text(
        f"ARG HOST\nARG NAME=none\nFROM ${{HOST}}/base/${{NAME}} AS one\nFROM one AS again\n"
        f"FROM scratch AS empty\nCOPY --from={host}/base/two /two.txt /\n"
        "FROM ${HOST}/base/one\nCOPY --from=again /one.txt /\n"
    )
    words = ["--dockerfile", str(file), "--build-arg", f"HOST={host}", "--build-arg", "NAME=one"]
    command = [*_command(folder, host), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        f"{host}/base/one:latest",
        f"{host}/base/two:latest",
    ]


@pytest.mark.integration
@pytest.mark.parametrize("program", ["warm", "warmer"])
def test_a_dockerfile_behind_a_url(
    registry: DockerRegistry, web: WebServer, shm_path: Path, program: str
) -> None:
    """It is fetched; one that is not there is an error that names it."""
    host, folder = _fill(registry), shm_path / "warm"
    text = f"FROM {host}/base/two\nFROM {host}/base/one\n"
    web.pages["/warm.Dockerfile"] = Page(text.encode())
    words = {
        "warm": ["warm", str(folder), "--insecure", host],
        "warmer": ["kaniko", "warmer", f"--cache-dir={folder}", f"--insecure-registry={host}"],
    }[program]
    command = [sys.executable, "-m", "asyncbuild", *words]
    there, missing = f"{web.base}/warm.Dockerfile", f"{web.base}/none"
    done = subprocess.run([*command, "--dockerfile", there], check=True, capture_output=True)
    assert {line.split()[0] for line in done.stdout.decode().splitlines()} == {
        f"{host}/base/one:latest",
        f"{host}/base/two:latest",
    }
    failed = subprocess.run(
        [*command, "--dockerfile", missing], check=False, capture_output=True, text=True
    )
    assert failed.returncode == 66
    assert f"{missing}: 404" in failed.stderr


@pytest.mark.integration
def test_warming_removes_what_nobody_warms(registry: DockerRegistry, shm_path: Path) -> None:
    """With --cache-ttl what is named becomes young again, and what has aged goes, with a line that says so."""
    host, folder = _fill(registry), shm_path / "warm"
    subprocess.run(_command(folder, host, "base/one", "base/two"), check=True)
    _age(folder, "base/")
    command = [*_command(folder, host, "base/one"), "--cache-ttl", "14d"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"removed: {host}/base/two:latest, warmed " in done.stderr
    assert [entry["digest"] for entry in entries_of(folder)] == [str(Digest.of(ONE.manifest()))]
    _skopeo("copy", "-q", f"oci:{folder}:{host}/base/one:latest", f"dir:{shm_path}/one")
