"""However many steps hit, a rebuild on another machine waits for a handful of answers and fetches no layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from asyncbuild.build.futures import Ledger, Promise
from asyncbuild.build.request import BuildResult, CachePlace
from asyncbuild.cache.scope_index import decode_index, encode_index
from asyncbuild.image.manifest import Index
from asyncbuild.image.reference import Reference
from asyncbuild.report.events import Outcome, StepFinished
from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, GatedDouble, Recorder, World, add_busybox, manifest_of, requests_of

STEPS = 30
MOST = 15
"""Dependent round trips that a rebuild may take."""
PATIENCE = 60.0
"""Seconds after which a test that waits for a request which never comes fails instead of waiting on."""
PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)


class WaveDouble(RegistryDouble):
    """Answers only when the build can do nothing more without an answer, and then all that was asked.

    So the number of waves is that of the round trips which had to wait for one another.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.waves = 0
        self._gate: trio.Event | None = None

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer one request, together with all others that are under way."""
        if self._gate is not None:
            await self._gate.wait()
        else:
            self._gate = gate = trio.Event()
            try:
                await wait_all_tasks_blocked(0.02)
            finally:
                self.waves += 1
                self._gate = None
                gate.set()
        return await super().handle(asked, entry)


def test_thirty_hits_on_another_machine(shm_path: Path) -> None:
    """Thirty steps, all in a registry's cache: few dependent round trips, and no layer is fetched."""
    double = WaveDouble()
    add_busybox(double)
    lines = [f"FROM {HOST}/base/busybox"]
    for number in range(STEPS // 3):
        lines += [f"COPY file /copy{number}", f"WORKDIR /work{number}", f"RUN echo {number} > made"]
    found = []
    for name, more in [("one", {"cache_to": (PLACE,)}), ("other", {"cache_from": (PLACE,)})]:
        (shm_path / name).mkdir()
        world = World.below(shm_path / name, double)
        world.write({"file": "content"})
        recorder = Recorder()
        double.log.clear()
        double.waves = 0
        request = world.request("\n".join(lines) + "\n", "out:1", **more)
        result = trio.run(partial(world.build, request, recorder=recorder))
        outcomes = [item.outcome for item in recorder.of(StepFinished)]
        found.append((str(result.manifest.digest), outcomes.count(Outcome.CACHED)))
    assert found == [(found[0][0], 0), (found[0][0], STEPS)]
    layers = {layer["digest"] for layer in manifest_of(double, "out", "1")["layers"]}
    assert len(layers) > STEPS // 2
    asked = {item.path.rpartition("/")[2] for item in double.log if item.method == "GET"}
    assert asked
    assert not asked & layers
    assert 0 < double.waves <= MOST


def test_a_cached_rebuild_waits_three_times(shm_path: Path) -> None:
    """The index has the base's configuration. So the manifest, the index and an upload session are asked for
    at once; then all layers are mounted while the configuration goes up; then the manifest is put.
    """
    double = GatedDouble()
    base = add_busybox(double)
    lines = [f"FROM {HOST}/base/busybox"]
    lines += [f"COPY file /copy{number}\nRUN echo {number} > /made{number}" for number in range(5)]
    dockerfile = "\n".join(lines) + "\n"
    worlds = []
    for name in ("one", "other"):
        (shm_path / name).mkdir()
        worlds.append(World.below(shm_path / name, double))
        worlds[-1].write({"file": "content"})
    worlds[0].run(dockerfile, "out:1", cache_to=(PLACE,))
    double.log.clear()

    def asked(method: str, what: str) -> int:
        paths = [f"{item.path}?{item.query}" for item in double.log if item.method == method]
        return sum(what in path for path in paths)

    def first(item: Asked) -> bool:
        return "/again/" not in item.path and item.method == "GET"

    def both(item: Asked) -> bool:
        return "mount=" in item.query or (item.method, "/uploads/" in item.path) == ("PUT", True)

    double.hold(
        first,
        lambda: (asked("GET", "/manifests/"), asked("POST", "/again/blobs/uploads/?")) == (2, 1),
    )
    double.hold(both, lambda: (asked("POST", "mount="), asked("PUT", "/uploads/")) == (11, 1))

    async def rebuild() -> None:
        with trio.fail_after(PATIENCE):
            await worlds[1].build(worlds[1].request(dockerfile, "again:1", cache_from=(PLACE,)))

    trio.run(rebuild)
    assert len(manifest_of(double, "again", "1")["layers"]) == 10 + len(base.layers)
    gets = [line for line in requests_of(double, "GET") if "/manifests/f-" not in line]
    assert len(gets) == 2
    assert requests_of(double)[-1] == "PUT /v2/again/manifests/1"


def test_a_configuration_that_the_index_has_wrong(shm_path: Path) -> None:
    """The digest vouches for it: another text under its place is not taken, and the base is asked."""
    double = RegistryDouble()
    add_busybox(double)
    (shm_path / "one").mkdir()
    (shm_path / "other").mkdir()
    first, other = World.below(shm_path / "one", double), World.below(shm_path / "other", double)
    dockerfile = f"FROM {HOST}/base/busybox\nRUN echo made > /made\n"
    built = first.run(dockerfile, "out:1", cache_to=(PLACE,))
    index = double.manifest("team/cache", "main")
    assert isinstance(index, Index)
    scope = decode_index(index, PLACE.reference or Reference.parse(HOST))
    forged = dict.fromkeys(scope.configs, b"{}")
    assert forged
    double.add_manifest("team/cache", "main", encode_index(replace(scope, configs=forged)))
    double.log.clear()
    again = other.run(dockerfile, "again:1", cache_from=(PLACE,))
    assert again.manifest.digest == built.manifest.digest
    assert (
        len([item for item in double.log if item.method == "GET" and "/blobs/" in item.path]) == 1
    )


class Watched(Ledger):
    """A ledger that shows all of its promises."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Promise[Any]] = []

    def promise(self, label: str) -> Promise[Any]:
        """A new promise."""
        self.all.append(super().promise(label))
        return self.all[-1]

    def of(self, word: str) -> dict[str, int]:
        """How many promises that begin with ``word`` were kept, by the rest of their labels."""
        done = [item.label for item in self.all if item.done and not item.failed]
        return Counter(label.removeprefix(word) for label in done if label.startswith(word))


def test_the_context_is_read_while_the_base_is_asked_for(shm_path: Path) -> None:
    """The base's manifest comes only when the files are read; each path is read once."""
    double, ledger = GatedDouble(), Watched()
    add_busybox(double)
    world = World.below(shm_path, double)
    world.write({"a/one": "1", "a/two": "2", "b": "b"})
    dockerfile = f"FROM {HOST}/base/busybox\nARG N=b\nCOPY a /x\nCOPY a /y\nCOPY b $N /z/\n"
    double.hold(
        lambda item: "/base/" in item.path, lambda: ledger.of("fingerprint ") == {"a": 1, "b": 1}
    )

    async def look() -> None:
        while True:
            await trio.sleep(0.01)
            double.wake()

    async def build() -> None:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)
                await world.build(world.request(dockerfile, "out:1"), ledger=ledger)
                nursery.cancel_scope.cancel()

    trio.run(build)
    assert ledger.of("fingerprint ") == {"a": 1, "b": 1}


STAGES = f"""\
FROM {HOST}/base/busybox AS one
COPY file /file
RUN cp /file /made
FROM {HOST}/base/busybox
COPY --from=one /made /made
"""


def two_worlds(directory: Path, double: RegistryDouble) -> tuple[World, World]:
    """Two machines, on the first of which `STAGES` was built and exported to a cache."""
    worlds = []
    for name in ("one", "other"):
        (directory / name).mkdir()
        worlds.append(World.below(directory / name, double))
        worlds[-1].write({"file": "content"})
    worlds[0].run(STAGES, "out:1", cache_to=(PLACE,))
    double.log.clear()
    return worlds[0], worlds[1]


def probes(double: RegistryDouble) -> int:
    """How many keys were asked for by their tags."""
    return len([item for item in double.log if item.method == "GET" and "/k-" in item.path])


def test_what_misses_will_need_is_begun_before_they_are_sure(shm_path: Path) -> None:
    """No tag is answered before the keys of both stages, and the base of the RUN, were asked for."""
    double = GatedDouble()
    base = add_busybox(double)
    _, world = two_worlds(shm_path, double)
    world.write({"file": "another"})
    layer = base.layers[0].digest

    def fetched() -> bool:
        return any(item.method == "GET" and item.path.endswith(layer) for item in double.log)

    double.hold(
        lambda item: "/manifests/k-" in item.path, lambda: probes(double) == 3 and fetched()
    )

    async def build() -> None:
        with trio.fail_after(PATIENCE):
            await world.build(world.request(STAGES, "again:1", cache_from=(PLACE,)))

    trio.run(build)
    assert probes(double) == 3
    assert len([item for item in double.log if item.path.endswith(layer)]) == 1


class Breaking(GatedDouble):
    """A double that knows which of its answers nobody waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: list[str] = []

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer one request."""
        try:
            return await super().handle(asked, entry)
        except trio.Cancelled:
            self.broken.append(asked.path)
            self.wake()
            raise


def test_what_was_begun_in_vain_is_withdrawn(shm_path: Path) -> None:
    """The index is lost and the tags are there: the base that was asked for meanwhile is not fetched."""
    double = Breaking()
    base = add_busybox(double)
    _, world = two_worlds(shm_path, double)
    del double.tags["team/cache"]["main"]
    layer = base.layers[0].digest

    def asked() -> bool:
        return any(item.method == "GET" and item.path.endswith(layer) for item in double.log)

    double.hold(lambda item: item.method == "GET" and item.path.endswith(layer), lambda: False)
    double.hold(lambda item: "/manifests/k-" in item.path, asked)
    double.hold(lambda item: item.path == "/v2/again/manifests/1", lambda: bool(double.broken))

    async def build() -> BuildResult:
        with trio.fail_after(PATIENCE):
            return await world.build(world.request(STAGES, "again:1", cache_from=(PLACE,)))

    result = trio.run(build)
    assert result.statistics.layers_pulled == 0
    assert [path for path in double.broken if path.endswith(layer)]
    assert double.tags["again"]["1"] == double.tags["out"]["1"]


def test_the_index_is_read_while_the_image_is_tagged(shm_path: Path) -> None:
    """One round trip less behind the image; where nothing is new it is read once."""
    double = GatedDouble()
    add_busybox(double)
    _, world = two_worlds(shm_path, double)
    world.write({"file": "another"})

    def reads() -> int:
        path = "/v2/team/cache/manifests/main"
        return len([item for item in double.log if item.method == "GET" and item.path == path])

    double.hold(
        lambda item: (item.method, item.path) == ("PUT", "/v2/again/manifests/1"),
        lambda: reads() == 2,
    )

    async def build(name: str) -> None:
        more = {"cache_from": (PLACE,), "cache_to": (PLACE,)}
        with trio.fail_after(PATIENCE):
            await world.build(world.request(STAGES, f"{name}:1", **more))

    trio.run(build, "again")
    assert reads() == 2
    double.log.clear()
    trio.run(build, "third")
    assert reads() == 1
