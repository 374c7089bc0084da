"""What a build asks of registries: no request too many, none too late, and which are under way at once.

Orders are made by holding answers back until other requests have come, never by looking at a clock.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from asyncbuild.build.request import BuildRequest, BuildResult
from asyncbuild.testing.exchanges import Asked
from asyncbuild.testing.registry_auth import Permission, TokenAccess
from support.builds import (
    HOST,
    GatedDouble,
    Recorder,
    World,
    add_busybox,
    add_image,
    layer_digests,
    requests_of,
)
from support.images import Image, Layer, Node, directory, symlink, text

FROM = f"FROM {HOST}/base/busybox\n"
PATIENCE = 60.0
"""Seconds after which a test that waits for a request which never comes fails instead of waiting on."""
NOISE = random.Random(1).randbytes(3 << 20)


def make_world(path: Path, double: GatedDouble | None = None) -> tuple[World, GatedDouble]:
    """A double with the busybox base, and a context with a small and a large file."""
    double = double or GatedDouble()
    world = World.below(path, double)
    add_busybox(double)
    world.write({"a": "a\n"})
    (world.context / "large").write_bytes(NOISE)
    return world, double


def run(world: World, request: BuildRequest) -> BuildResult:
    """Build within `PATIENCE`."""

    async def main() -> BuildResult:
        with trio.fail_after(PATIENCE):
            return await world.build(request)

    return trio.run(main)


def is_blob_of(digests: Sequence[str], asked: Asked) -> bool:
    """Whether a request is for one of these layers."""
    return asked.method == "GET" and asked.path.rpartition("/")[2] in digests


def blob_gets(double: GatedDouble) -> list[str]:
    """The digests of all blobs that were asked for, in order."""
    return [entry.path.rpartition("/")[2] for entry in double.asked("GET", "/blobs/")]


def kinds(double: GatedDouble) -> Counter[str]:
    """How many requests of each kind came: a method, and what the path is about."""
    found: Counter[str] = Counter()
    for entry in double.log:
        what = "manifest" if "/manifests/" in entry.path else "blob"
        if "/uploads/" in entry.path:
            what = "mount" if "mount=" in entry.query else "upload"
        found[f"{entry.method} {'token' if entry.path == '/token' else what}"] += 1
    return found


def layers_of(count: int, size: int = 1000) -> list[Layer]:
    """Small layers that hold a file each; ``size`` bytes that do not compress."""
    chance = random.Random(count)
    return [
        Layer.of(Node(f"layer-{number}", content=chance.randbytes(size))) for number in range(count)
    ]


def test_metadata_only(shm_path: Path) -> None:
    """Manifest, config, a mount, an upload session with its one closing PUT, the manifest: six requests."""
    world, double = make_world(shm_path)
    run(world, world.request(FROM + 'ENV A=b\nLABEL c=d\nCMD ["e"]\n', "app:1"))
    assert kinds(double) == {
        "GET manifest": 1,
        "GET blob": 1,
        "POST mount": 1,
        "POST upload": 1,
        "PUT upload": 1,
        "PUT manifest": 1,
    }
    image = double.manifest("base/busybox", "latest")
    assert blob_gets(double) == [str(image.config.digest)]  # type: ignore[union-attr]


def test_metadata_only_with_tokens(shm_path: Path) -> None:
    """One token serves the pull, the push and the mount; the 401s come at once."""
    access = TokenAccess({}, (Permission(".*", frozenset({"pull", "push"})),))
    world, double = make_world(shm_path, GatedDouble(access=access))
    run(world, world.request(FROM + "ENV A=b\n", "app:1"))
    found = kinds(double)
    assert found["GET token"] == 1
    assert found.total() == 6 + 1 + 2
    assert [entry.status for entry in double.log[:2]] == [401, 401]


def test_copy_upon_scratch(shm_path: Path) -> None:
    """Two sessions, two closing PUTs, the manifest; nothing is pulled."""
    world, double = make_world(shm_path)
    run(world, world.request("FROM scratch\nCOPY a /\n", "app:1"))
    assert kinds(double) == {"POST upload": 2, "PUT upload": 2, "PUT manifest": 1}


def test_second_build_asks_for_the_tag_alone(shm_path: Path) -> None:
    """What is in the store is not asked for again; tags are resolved anew."""
    world, double = make_world(shm_path)
    run(world, world.request(FROM + "RUN true\n", "app:1"))
    double.log.clear()
    run(world, world.request(FROM + "RUN true\n", "app:1"))
    assert [line for line in requests_of(double) if line.startswith("GET")] == [
        "GET /v2/base/busybox/manifests/latest"
    ]


def test_bases_of_two_stages_are_pulled_at_once(shm_path: Path) -> None:
    """No base's layer is answered before both were asked for."""
    world, double = make_world(shm_path)
    other = add_busybox(double, "base/other", Layer.of(text("other", "other\n")))
    digests = [other.layers[0].digest, other.layers[1].digest]
    double.hold(partial(is_blob_of, digests), lambda: set(digests) <= set(blob_gets(double)))
    dockerfile = (
        f"FROM {HOST}/base/busybox AS one\nRUN echo 1 > /1\n"
        f"FROM {HOST}/base/other\nRUN echo 2 > /2\nCOPY --from=one /1 /1\n"
    )
    run(world, world.request(dockerfile, "app:1"))
    assert sorted(d for d in blob_gets(double) if d in digests) == sorted(digests)


def test_all_layers_of_a_base_come_in_one_wave(shm_path: Path) -> None:
    """Eight layers: none is answered before all were asked for."""
    world, double = make_world(shm_path)
    image = Image([*add_busybox(double).layers, *layers_of(7)])
    add_image(double, "base/eight", image)
    wanted = set(layer_digests(image))
    double.hold(partial(is_blob_of, layer_digests(image)), lambda: wanted <= set(blob_gets(double)))
    run(world, world.request(f"FROM {HOST}/base/eight\nRUN true\n", "app:1"))
    assert Counter(d for d in blob_gets(double) if d in wanted) == dict.fromkeys(wanted, 1)


def test_stages_that_nobody_needs(shm_path: Path) -> None:
    """Neither their images nor those that they copy from are asked for."""
    world, double = make_world(shm_path)
    dockerfile = (
        f"FROM {HOST}/unneeded AS unneeded\nCOPY --from={HOST}/unneeded/too /a /a\nRUN false\n"
        f"FROM {HOST}/base/busybox\nCOPY a /a\n"
    )
    run(world, world.request(dockerfile, "app:1"))
    assert [line for line in requests_of(double) if "unneeded" in line] == []


def test_copy_from_an_image_reads_its_layers_from_the_top(shm_path: Path) -> None:
    """A file of the topmost layer: what lies below is large, and not fetched."""
    world, double = make_world(shm_path)
    below = Layer.of(Node("tool", content=NOISE), Node("other", content=NOISE))
    top = Layer.of(text("tool", "the newer one\n"))
    add_image(double, "tools", Image([below, top]))
    recorder = Recorder()
    dockerfile = FROM + f"COPY --from={HOST}/tools /tool /tool\nRUN cat /tool\n"
    trio.run(lambda: world.build(world.request(dockerfile, "app:1"), recorder=recorder))
    assert recorder.output() == "the newer one\n"
    assert top.digest in blob_gets(double)
    assert below.digest not in blob_gets(double)


def test_copy_from_an_image_goes_down_as_far_as_it_must(shm_path: Path) -> None:
    """A file that only the lowest layer has."""
    world, double = make_world(shm_path)
    below = Layer.of(text("tool", "the only one\n"))
    add_image(double, "tools", Image([below, *layers_of(1)]))
    run(world, world.request(f"FROM scratch\nCOPY --from={HOST}/tools /tool /\n", "app:1"))
    assert below.digest in blob_gets(double)


def test_base_layers_are_mounted(shm_path: Path) -> None:
    """Each is one POST at the destination; none is sent."""
    world, double = make_world(shm_path)
    image = Image([*add_busybox(double).layers, *layers_of(7)])
    add_image(double, "base/eight", image)
    run(world, world.request(f"FROM {HOST}/base/eight\nCOPY a /a\n", "app:1"))
    found = kinds(double)
    assert found["POST mount"] == 8
    assert found["PUT upload"] == 2  # the new layer and the configuration
    assert found["PATCH upload"] == 0
    assert {str(digest) for digest in double.blobs["app"]} >= set(layer_digests(image))


def test_base_layers_are_mounted_while_the_configuration_comes(shm_path: Path) -> None:
    """The manifest names them: no round trip is waited for in between."""
    world, double = make_world(shm_path)
    config = double.manifest("base/busybox", "latest").config  # type: ignore[union-attr]
    double.hold(
        lambda asked: is_blob_of([str(config.digest)], asked),
        lambda: kinds(double)["POST mount"] == 1,
    )
    run(world, world.request(FROM + "ENV A=b\n", "app:1"))
    assert kinds(double)["POST mount"] == 1


@pytest.mark.parametrize(
    "text", ["RUN true\n", "COPY a /a\nRUN true\n", "COPY a /a\n", "WORKDIR /a\n"]
)
def test_layers_that_a_step_looks_at_come_beside_the_configuration(
    shm_path: Path, text: str
) -> None:
    """Where nothing can be cached, the plan alone says so: they are asked for when the manifest is here."""
    world, double = make_world(shm_path)
    image = double.manifest("base/busybox", "latest")
    config = str(image.config.digest)  # type: ignore[union-attr]
    layers = [str(layer.digest) for layer in image.layers]  # type: ignore[union-attr]

    def asked() -> bool:
        return any(item.path.rpartition("/")[2] in layers for item in double.log)

    double.hold(lambda item: is_blob_of([config], item), asked)
    run(world, world.request(FROM + text, "app:1"))
    assert sorted(blob_gets(double)) == sorted([config, *layers])


@pytest.mark.parametrize("patience", [math.inf, 0.01])
def test_small_requests_wait_for_those_for_layers(
    shm_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """Mounts and uploads of a build that fetches its base begin when the base does, or a little later."""
    monkeypatch.setattr("asyncbuild.build.supply._PATIENCE", patience)
    world, double = make_world(shm_path)
    digest = add_busybox(GatedDouble()).layers[0].digest
    if patience < 1:  # a layer that does not come holds up nothing
        double.hold(
            lambda asked: is_blob_of([digest], asked), lambda: kinds(double)["POST mount"] == 1
        )
    run(world, world.request(FROM + "COPY a /a\n", "app:1"))
    methods = [item.method for item in double.log]
    asked = next(at for at, item in enumerate(double.log) if item.path.endswith(digest))
    assert double.log[asked].method == "GET"
    if patience > 1:
        assert methods[:asked].count("POST") <= 1  # that for the configuration, from the very start
    assert "1" in double.tags["app"]


def test_layers_that_are_unpacked_are_not_fetched_early(shm_path: Path) -> None:
    """Another image of the same layers: its configuration comes, and they do not."""
    world, double = make_world(shm_path)
    run(world, world.request(FROM + "RUN true\n"))
    other = replace(add_busybox(GatedDouble()), config={"Labels": {"other": "image"}})
    add_image(double, "base/other", other)
    before = len(blob_gets(double))
    run(world, world.request(f"FROM {HOST}/base/other\nRUN true\n", use_cache=False))
    config = double.manifest("base/other", "latest").config  # type: ignore[union-attr]
    assert blob_gets(double)[before:] == [str(config.digest)]


def test_base_layers_in_their_own_repository(shm_path: Path) -> None:
    """They are there: no request at all."""
    world, double = make_world(shm_path)
    run(world, world.request(FROM + "COPY a /a\n", "base/busybox:2"))
    assert kinds(double)["POST mount"] == 0
    assert len(double.manifest("base/busybox", "2").layers) == 2  # type: ignore[union-attr]


def test_registry_that_mounts_nothing(shm_path: Path) -> None:
    """The base's layer is pulled and sent, once."""
    world, double = make_world(shm_path, GatedDouble(mounts=False))
    run(world, world.request(FROM + "ENV A=b\n", "app:1"))
    base = add_busybox(GatedDouble()).layers[0]
    assert blob_gets(double).count(base.digest) == 1
    assert {str(digest) for digest in double.blobs["app"]} >= {base.digest}
    assert "1" in double.tags["app"]


def test_two_tags_share_one_upload(shm_path: Path) -> None:
    """Only the manifest goes twice."""
    world, double = make_world(shm_path)
    run(world, world.request(FROM + "COPY large /\n", "app:1", "app:2"))
    found = kinds(double)
    assert found["PUT manifest"] == 2
    assert found["PUT upload"] == 2
    assert found["PATCH upload"] <= 1
    assert double.tags["app"]["1"] == double.tags["app"]["2"]


def test_two_repositories_share_a_large_layer(shm_path: Path) -> None:
    """The second repository of a registry gets it by a mount; its bytes go once."""
    world, double = make_world(shm_path)
    result = run(world, world.request(FROM + "COPY large /\n", "one:1", "two:1"))
    sent = sum(entry.bytes_in for entry in double.log)
    assert len(NOISE) < sent < 1.5 * len(NOISE)
    layer = str(result.manifest.layers[-1].digest)
    mounts = [entry for entry in double.asked("POST", "/v2/two/") if layer[7:] in entry.query]
    assert len(mounts) == 1
    assert double.tags["one"]["1"] == double.tags["two"]["1"]


class Line:
    """A command of a RUN waits at the other end of a TCP connection until it is let go."""

    def __init__(self) -> None:
        self.called = trio.Event()
        self.free = trio.Event()

    async def serve(self, task_status: trio.TaskStatus[int]) -> None:
        """Listen on a loopback port until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        task_status.started(port)
        await trio.serve_listeners(self._hold, listeners)

    async def _hold(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.called.set()
            await self.free.wait()
            await stream.send_all(b"go on\n")


def test_layers_go_while_the_next_step_runs(shm_path: Path) -> None:
    """The last RUN ends only when the layer before it has arrived; then three requests are left."""
    world, double = make_world(shm_path)

    async def main() -> list[str]:
        line = Line()
        async with trio.open_nursery() as nursery:
            port = await nursery.start(line.serve)
            dockerfile = FROM + f"COPY large /\nRUN nc 127.0.0.1 {port} < /dev/null > /said\n"
            nursery.start_soon(world.build, world.request(dockerfile, "app:1"))
            with trio.fail_after(PATIENCE):
                await line.called.wait()
                # the base's layer by mount, and the new one
                await double.wait(lambda: len(double.blobs.get("app", {})) == 2)
                # sessions for the COPY, the RUN that has not ended yet and the configuration, and the mount
                posts = partial(double.asked, "POST", "^/v2/app/blobs/uploads/$")
                await double.wait(lambda: len(posts()) == 4)
                before = len(double.log)
                line.free.set()
                await double.wait(lambda: "1" in double.tags.get("app", {}))
            nursery.cancel_scope.cancel()
        return requests_of(double)[before:]

    left = trio.run(main)
    assert [line.split("/")[0] + line.split("/")[3] for line in left] == [
        "PUT blobs",
        "PUT blobs",
        "PUT manifests",
    ]


def test_the_configuration_waits_for_no_guess(shm_path: Path) -> None:
    """Where the base is looked at to check a guess, all but the manifest has gone when it comes."""
    world, double = make_world(shm_path)
    base = add_busybox(GatedDouble()).layers[0].digest
    double.hold(lambda asked: is_blob_of([base], asked), lambda: kinds(double)["PUT upload"] == 2)
    run(world, world.request(FROM + "COPY a /new/a\n", "app:1"))
    assert kinds(double)["PUT upload"] == 2
    assert requests_of(double)[-1] == "PUT /v2/app/manifests/1"


def test_a_wrong_guess_sends_another_configuration(shm_path: Path) -> None:
    """The first one rests on a layer that is in no image; the image's own has a session of its own."""
    world, double = make_world(shm_path)
    moved = Image(
        [*add_busybox(double).layers, Layer.of(directory("real"), symlink("new", "real"))]
    )
    add_image(double, "base/moved", moved)
    wanted = set(layer_digests(moved))
    double.hold(
        lambda asked: is_blob_of(sorted(wanted), asked), lambda: kinds(double)["PUT upload"] == 2
    )
    result = run(world, world.request(f"FROM {HOST}/base/moved\nCOPY a /new/\n", "app:1"))
    assert kinds(double)["PUT upload"] == 4
    assert result.manifest.config.digest in double.blobs["app"]
    assert set(world.entries(result, 2)) >= {"real/a"}


def test_files_of_an_image_and_the_base_come_at_once(shm_path: Path) -> None:
    """An image behind COPY --from is asked for at the start, not when its step is reached."""
    world, double = make_world(shm_path)
    tools = Image([Layer.of(directory("opt"), text("opt/tool", "tool\n"))])
    add_image(double, "tools", tools)
    base = add_busybox(GatedDouble()).layers[0].digest
    wanted = {base, tools.layers[0].digest}
    double.hold(partial(is_blob_of, sorted(wanted)), lambda: wanted <= set(blob_gets(double)))
    dockerfile = FROM + f"RUN true\nCOPY --from={HOST}/tools /opt/tool /tool\n"
    run(world, world.request(dockerfile, "app:1"))
    assert "1" in double.tags["app"]


def test_the_largest_layer_is_asked_for_first(shm_path: Path) -> None:
    """Of more layers than may come at once none waits for a small one, wherever it stands in the image."""
    world, double = make_world(shm_path)
    large = layers_of(1, 18 << 20)[0]
    image = Image([*add_busybox(double).layers, *layers_of(20), large, *layers_of(21)])
    add_image(double, "base/many", image)
    run(world, world.request(f"FROM {HOST}/base/many\nRUN true\n", "app:1"))
    digests = set(layer_digests(image))
    order = [digest for digest in blob_gets(double) if digest in digests]
    assert large.digest in order[:24]  # those that are granted together
