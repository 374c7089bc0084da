"""Figures that issue 3 sets goals for, each against its goal: ``perf/run goals``.

They take some minutes and 6 GB of the tmpfs. BuildKit's CPU stands beside ours where ``PERF_BUILDKITD`` and
``PERF_BUILDCTL`` name its programs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import trio
from isal import igzip
from perf.bases import load_bases, seed_directory
from perf.farsite import FarLink, Link, Registry, copy_of_storage
from perf.jobs import write_files
from perf.measure import Cell, Usage, measure
from perf.micro.figure import Figure, best_of, rate, with_children
from perf.micro.startup import start
from perf.tools import Build, environment, known_tools

from asyncbuild.build.fetching import Fetch
from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.streams import Streams
from asyncbuild.build.supply import MAX_STREAMS
from asyncbuild.build.workers import WorkerPool
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_LAYER_GZIP, Descriptor
from asyncbuild.layers.compression import Codec, Compression
from asyncbuild.layers.pack import pack_to_file
from asyncbuild.layers.snapshot import snapshot
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.registries import Registries, RegistrySettings

_GIGABIT = 125e6
_COUNT = 100_000
_LAYER_FILES = 5_000
_TURNS = 5
_SNAPSHOTS = ("tar", "snapshot-pack", "snapshot-pack-gzip")


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of the figure ``name``: at most ``limit``, or at least. ``point`` is the issue's."""

    point: int
    name: str
    what: str
    limit: float
    at_least: bool = False

    def row(self, found: dict[str, Figure]) -> str:
        """A line of the table; a figure that was not taken says so."""
        figure = found.get(self.name)
        wanted = f"{'at least' if self.at_least else 'at most'} {self.limit:g}"
        if figure is None:
            return f"| {self.point} | {self.what} | not taken | {wanted} | |"
        reached = figure.value >= self.limit if self.at_least else figure.value <= self.limit
        value = f"{figure.value:.2f} {figure.unit}"
        return f"| {self.point} | {self.what} | {value} | {wanted} | {'yes' if reached else 'no'} |"


GOALS = (
    Goal(3, "far-layer-link-share", "500 MB layer, 1 Gb/s, 100 ms, windows of 3 MiB: of the link", 85, at_least=True),
    Goal(3, "far-layer-over-one", "the same against one stream", 2, at_least=True),
    Goal(4, "gib-peak-rss", "1 GiB layer pulled, unpacked, rebuilt, pushed: peak RSS of the tree", 150),
    Goal(4, "gib-cpu-over-buildkit", "its CPU time over BuildKit's", 1),
    Goal(5, "unpack-many-layers-core", "small files unpacked, many layers, a second and core", 30_000, at_least=True),
    Goal(6, "snapshot-over-tar", f"{_COUNT} new files, snapshot and pack over GNU tar's time", 1.1),
    Goal(7, "stages-over-one", "as many stages as cores over one of them", 1.15),
    Goal(8, "version-over-python", "asyncbuild --version over python -c pass", 1.5),
)  # fmt: skip


#: The points that a choice may name.
POINTS = tuple(dict.fromkeys(goal.point for goal in GOALS))


def table(found: dict[str, Figure], points: Collection[int] = POINTS) -> str:
    """The goals of ``points`` as Markdown."""
    head = ["| point | what | figure | goal | reached |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *(goal.row(found) for goal in GOALS if goal.point in points)])


def figures(scratch: Path, points: Collection[int] = POINTS) -> Iterator[Figure]:
    """Those of ``points``; each makes what it needs and removes it."""
    parts: dict[int, Callable[[Path], Iterator[Figure]]] = {
        8: _starts, 5: _unpacks, 6: _snapshots, 3: _far_layer, 7: _stages, 4: _gibibyte
    }  # fmt: skip
    for part in (part for point, part in parts.items() if point in points):
        place = scratch / "goals"
        place.mkdir()
        try:
            yield from part(place)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _starts(_: Path) -> Iterator[Figure]:
    python = best_of(lambda: start("-S", "-c", "pass"), 15)
    version = best_of(lambda: start("-m", "asyncbuild", "--version"), 15)
    plain = best_of(lambda: start("-c", "pass"), 15)
    yield Figure("start-python-bare", python[0] * 1000, "ms", *python)
    yield Figure("version-over-python", version[0] / plain[0], "times", *version)


def _unpacks(scratch: Path) -> Iterator[Figure]:
    """As many layers as there are cores, twice, each of small files, through the build's own workers."""
    cores = os.cpu_count() or 1
    write_files(scratch / "tree", _LAYER_FILES, 2_000, seed=1)
    changes = snapshot(str(scratch / "tree"), [])
    packed = pack_to_file(changes, str(scratch / "blob"))
    blob = (scratch / "blob").read_bytes()

    async def unpack_all(count: int) -> None:
        async with WorkerPool(cores) as pool, trio.open_nursery() as nursery:
            for number in range(count):
                place = scratch / f"unpacked-{number}"
                place.mkdir()
                nursery.start_soon(
                    pool.unpack, packed.descriptor, packed.diff_id, place, _pieces(blob)
                )

    def work() -> None:
        for place in scratch.glob("unpacked-*"):
            shutil.rmtree(place)
        trio.run(unpack_all, 4 * cores)

    amount = len(changes.additions) * 4 * cores
    all_cores = rate("unpack-many-layers", amount, "files/s", work)
    yield all_cores
    yield replace(all_cores, name="unpack-many-layers-core", value=all_cores.value / cores)


async def _pieces(blob: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(blob), 512 << 10):
        yield blob[begin : begin + (512 << 10)]


def _snapshots(scratch: Path) -> Iterator[Figure]:
    """As a build packs what a RUN left: in a worker of its pool, which is started for it."""
    upper, below = scratch / "upper", scratch / "below"
    below.mkdir()
    write_files(upper, _COUNT, 1_000, seed=4)
    blob = scratch / "blob"

    async def packed(compression: Compression) -> None:
        async with WorkerPool(1) as pool:
            await pool.pack_upper(upper, [below], blob, compression)

    def ours(codec: Codec) -> None:
        blob.unlink(missing_ok=True)
        trio.run(packed, Compression(codec))

    def gnu_tar() -> None:
        command = ["tar", "-C", str(upper), "-cf", str(scratch / "gnu.tar"), "."]
        subprocess.run(command, check=True)

    works = (gnu_tar, partial(ours, Codec.NONE), partial(ours, Codec.GZIP))
    taken = [[with_children(work) for work in works] for _ in range(_TURNS)]
    for name, each in zip(_SNAPSHOTS, zip(*taken, strict=True), strict=True):
        yield Figure(f"{name}-{_COUNT}", min(each)[0] * 1000, "ms", *min(each))
    best = [
        [min(column) for column in zip(*each, strict=True)] for each in zip(*taken, strict=True)
    ]
    theirs, plain, _ = best
    yield Figure("snapshot-over-tar", plain[0] / theirs[0], "times", *plain)
    yield Figure("snapshot-over-tar-cpu", plain[1] / theirs[1], "times", *plain)


def _far_layer(scratch: Path) -> Iterator[Figure]:
    """J7's layer through the far link, whose connections have their windows for a limit and nothing else.

    No connection is there yet, and the registry is known to speak no TLS, as in the jobs: to find that out takes
    two round trips, on loopback only.
    """
    layer = load_bases()["large"][-1]
    descriptor = Descriptor(OCI_LAYER_GZIP, Digest.parse(layer.digest), layer.size)
    link = Link(0.1, bandwidth=_GIGABIT, per_connection=0)
    plain = RegistrySettings(others=HostSettings(insecure=True, plain=True))
    copy_of_storage(seed_directory(), scratch / "registry")

    async def in_ranges(address: str) -> None:
        async with Registries(plain) as registries:
            client = registries.client(address)
            file = GrowingFile(scratch / "blob", layer.size)
            await Fetch(
                client, "bases/large", descriptor, file, Streams(MAX_STREAMS), _nobody
            ).run()
            file.close()

    async def in_one(address: str) -> None:
        async with Registries(plain) as registries:
            client = registries.client(address)
            async with client.open_blob("bases/large", descriptor) as chunks:
                async for _ in chunks:
                    pass

    with Registry(scratch / "registry") as registry:
        with FarLink(registry.address, link, scratch / "log") as far:
            several = best_of(lambda: trio.run(in_ranges, far.address), 2)
            one = best_of(lambda: trio.run(in_one, far.address), 1)
    share = 100 * layer.size / _GIGABIT
    yield Figure("far-layer-link-share", share / several[0], "%", *several)
    yield Figure("far-layer-one-share", share / one[0], "%", *one)
    yield Figure("far-layer-over-one", one[0] / several[0], "times", *several)


def _nobody(_done: int) -> None:
    """Nobody wants to know."""


def _stages(scratch: Path) -> Iterator[Figure]:
    """Stages that are busy for a while upon one base: one of them, and one for each core."""
    cores = os.cpu_count() or 1
    copy_of_storage(seed_directory(), scratch / "registry")
    with Registry(scratch / "registry") as registry:
        walls = [
            _built(scratch, registry, f"stages-{count}", _busy(registry.address, count)).wall
            for count in (1, cores)
        ]
    yield Figure("stages-one", walls[0] * 1000, "ms", walls[0], 0)
    yield Figure("stages-over-one", walls[1] / walls[0], "times", walls[1], 0)


def _busy(registry: str, count: int) -> str:
    loop = "i=0; while [ $i -lt 6000000 ]; do i=$((i+1)); done; echo {0} > /{0}"
    base = f"FROM {registry}/bases/b:1"
    stages = [f"{base} AS stage{n}\nRUN {loop.format(n)}\n" for n in range(count)]
    copies = [f"COPY --from=stage{n} /{n} /{n}\n" for n in range(count)]
    return "".join([*stages, "FROM scratch\n", *copies])


def _gibibyte(scratch: Path) -> Iterator[Figure]:
    """A base of one layer of 1 GiB, half of it random; a RUN copies all of it, which is packed and pushed."""
    _write_image(scratch / "image")
    usages = {}
    for name in ("asyncbuild", "buildkit"):
        if name in known_tools():
            with Registry(scratch / f"registry-{name}") as registry:
                target = f"docker://{registry.address}/gib:1"
                copy = [
                    "skopeo",
                    "copy",
                    "-q",
                    "--dest-tls-verify=false",
                    f"oci:{scratch}/image:gib",
                ]
                subprocess.run([*copy, target], check=True)
                text = f"FROM {registry.address}/gib:1\nRUN /bin/busybox cp -r /data /again\n"
                usages[name] = _built(scratch, registry, "gib", text, name)
            shutil.rmtree(scratch / f"registry-{name}")
    ours = usages["asyncbuild"]
    spent = (ours.wall, ours.cpu)
    yield Figure("gib-wall", ours.wall * 1000, "ms", *spent)
    yield Figure("gib-cpu", ours.cpu * 1000, "ms", *spent)
    yield Figure("gib-peak-rss", ours.peak_rss / 1e6, "MB", *spent)
    yield Figure("gib-peak-pss", ours.peak_pss / 1e6, "MB", *spent)
    if "buildkit" in usages:
        theirs = usages["buildkit"]
        yield Figure("gib-cpu-buildkit", theirs.cpu * 1000, "ms", theirs.wall, theirs.cpu)
        yield Figure("gib-cpu-over-buildkit", ours.cpu / theirs.cpu, "times", *spent)


def _write_image(layout: Path) -> None:
    """An OCI layout with the image ``gib``: busybox and 64 files of 16 MiB."""
    layout.mkdir()
    layer = layout / "layer"
    with igzip.open(layer, "wb", compresslevel=1) as packed:  # type: ignore[no-untyped-call]
        with tarfile.open(fileobj=packed, mode="w|") as tar:
            tar.add("/bin/busybox", "bin/busybox")
            tar.addfile(_link("bin/sh", "busybox"))
            words = b"".join(b"word %d of many\n" % n for n in range(1 << 16))
            for number in range(64):
                data = (os.urandom(8 << 20) + words * 16)[: 16 << 20]
                item = tarfile.TarInfo(f"data/{number}")
                item.size = len(data)
                tar.addfile(item, BytesIO(data))
    convert = [sys.executable, "-m", "perf.micro.layout", str(layout)]
    subprocess.run(convert, check=True)


def _link(name: str, target: str) -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.linkname = tarfile.SYMTYPE, target
    return item


def _built(
    scratch: Path, registry: Registry, name: str, text: str, tool: str = "asyncbuild"
) -> Usage:
    """What one cold build of a Dockerfile costs; it must succeed."""
    context, state = scratch / "context", scratch / "state"
    for place in (context, state):
        place.mkdir()
    (context / "Dockerfile").write_text(text)
    build = Build(context, registry.address, f"built/{name}", state)
    cell = Cell()
    chosen = known_tools()[tool]
    try:
        with chosen.running(build, cell):
            command = chosen.command(build)
            usage = measure(
                command, environment=environment(build), log=scratch / "output", cell=cell
            )
    finally:
        cell.close()
        shutil.rmtree(context)
        shutil.rmtree(state, ignore_errors=True)
    if usage.exit_code:
        output = (scratch / "output").read_text()[-2000:]
        raise SystemExit(f"perf: {tool} cannot build {name} ({time.ctime()}):\n{output}")
    return usage
