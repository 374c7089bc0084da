"""Builds without end on one store, with faults at random: nothing is lost, and nothing grows.

``just soak --builds 500 --at-once 16``: first so many builds one after another, then as many more with
``--at-once`` of them at a time, all in one process, on one store, against one registry double per build
whose requests fail at random (``--seed``). After every build the image is compared with what a build
without faults made. What the process and the store hold is counted after each tenth of the builds.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import trio

from asyncbuild.build.futures import Ledger
from asyncbuild.build.request import CachePlace
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.registry.transport import Timeouts
from asyncbuild.testing.fault_scripts import NAMED, named_rule
from asyncbuild.testing.faults import Action, Faults, Respond
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, Belongings, Recorder, World, add_busybox, store_faults
from support.matrix import image_faults

SOFT = [
    "refused",
    "reset-before",
    "reset-after",
    "reset-in-the-middle",
    "truncated",
    "wrong-digest",
    "wrong-size",
    "429",
    "500",
    "502",
    "503",
    "hang",
    "hang-in-the-middle",
    "garbage",
    "page",
]
HARD = ["403", "404", "416", "503-always"]
QUICK = RegistrySettings(
    policy=RetryPolicy(base=0.002, longest=0.02, longest_wish=30.0),
    timeouts=Timeouts(connect=5.0, receive=0.1, send=5.0, commit=0.5),
)
FROM = f"FROM {HOST}/base/busybox"
DOCKERFILES = (
    f"{FROM}\nCOPY hello.txt /\nRUN tr a-z A-Z < /hello.txt > /loud.txt\n",
    f"""{FROM} AS one
COPY hello.txt /a
RUN cat /a /a > /b
FROM scratch
COPY --from=one /b /
COPY hello.txt /
""",
    f"{FROM}\nWORKDIR /w\nCOPY . .\nRUN echo @ > odd && rm hello.txt\nLABEL a=b\n",
)


class RandomFaults(Faults):
    """Each request is struck with a probability; what by, and whether, is drawn by a seed."""

    def __init__(self, chance: random.Random, probability: float, hard: float) -> None:
        super().__init__()
        self._chance = chance
        self._probability = probability
        self._hard = hard
        self.struck: Counter[str] = Counter()

    def strike(self, method: str, path: str) -> Action | None:
        """What to do to a request."""
        draw = self._chance.random()
        if draw >= self._probability:
            return super().strike(method, path)
        name = self._chance.choice(HARD if draw < self._probability * self._hard else SOFT)
        self.struck[name] += 1
        action = named_rule(name, method, ".*").action
        if isinstance(action, Respond):  # a Retry-After would be a second of the soak
            return replace(action, headers={})
        return action


@dataclass(slots=True)
class Holding:
    """What the process and the store hold at some moment; memory in KiB."""

    builds: int
    memory: int
    descriptors: int
    mounts: int
    processes: int
    threads: int
    objects: int
    blobs: int
    layers: int
    works: int
    files: int


@dataclass(slots=True)
class Soak:
    """One soak: where, how many, and what came of it."""

    directory: Path
    chance: random.Random
    probability: float
    outcomes: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    holdings: list[Holding] = field(default_factory=list)
    right: dict[int, Digest] = field(default_factory=dict)
    done: int = 0
    requests: int = 0

    @property
    def store(self) -> Path:
        """The one store."""
        return self.directory / "store"

    def world(self) -> World:
        """A new registry, the store and the context of all."""
        double = RegistryDouble()
        add_busybox(double)
        return World(double, self.store, self.directory / "context")

    async def build(self, kind: int, world: World, *, use_cache: bool = True) -> Digest:
        """Build the Dockerfile of this number."""
        ledger = Ledger()
        request = world.request(DOCKERFILES[kind], "app:1", use_cache=use_cache, clamp_times=True)
        if use_cache and kind == 1:
            cache = CachePlace(Reference.parse(f"{HOST}/cache/app:main"), everything=True)
            request = replace(request, cache_to=(cache,), cache_from=(cache,), cache_patience=2.0)
        try:
            result = await world.build(request, recorder=Recorder(), settings=QUICK, ledger=ledger)
        finally:
            self.wrong += [f"open: {item}" for item in ledger.unsettled]
        return result.manifest.digest

    async def one(self) -> None:
        """A build with faults: the right image, or an error of ours; nothing half done."""
        kind = self.chance.randrange(len(DOCKERFILES))
        world = self.world()
        seeded = random.Random(self.chance.random())
        faults = world.double.faults = RandomFaults(seeded, self.probability, hard=0.1)
        digest = None
        try:
            digest = await self.build(kind, world, use_cache=self.chance.random() < 0.5)
            self.outcomes["done"] += 1
            if digest != self.right[kind]:
                self.wrong.append(f"build {self.done}: another image")
        except AsyncbuildError as error:
            self.outcomes[type(error).__name__] += 1
        self.wrong += [
            f"build {self.done}: {text}" for text in image_faults(world.double, "app", "1", digest)
        ]
        self.struck += faults.struck
        self.requests += len(world.double.log)
        self.done += 1

    async def run(self, builds: int, at_once: int) -> None:
        """One after another, then ``at_once`` at a time."""
        for kind in range(len(DOCKERFILES)):
            self.right[kind] = await self.build(kind, self.world(), use_cache=False)
        self.holdings.append(self.hold())
        for number in range(builds):
            await self.one()
            if (number + 1) % max(1, builds // 10) == 0:
                self.holdings.append(self.hold())
        left = builds

        async def some() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self.one()

        for _ in range(2):
            left = builds // 2
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(some)
            self.holdings.append(self.hold())

    def hold(self) -> Holding:
        """Count."""
        gc.collect()
        ours = Belongings.now()
        statm = Path("/proc/self/statm").read_text().split()
        threads = len(list(Path("/proc/self/task").iterdir()))
        works = list((self.store / "tmp").glob("*"))
        return Holding(
            builds=self.done,
            memory=int(statm[1]) * 4,
            descriptors=len(ours.descriptors),
            mounts=len(ours.mounts),
            processes=len(ours.children),
            threads=threads,
            objects=len(gc.get_objects()),
            blobs=len(list((self.store / "blobs/sha256").glob("*"))),
            layers=len(list((self.store / "layers").glob("*/*"))),
            works=len(works),
            files=sum(1 for _ in self.store.rglob("*")),
        )


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, with a context in it."""
    path = Path(tempfile.mkdtemp(prefix="asyncbuild-test-", dir="/dev/shm"))
    (path / "context").mkdir()
    (path / "context/hello.txt").write_text("hello\n")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def soak(builds: int, at_once: int, seed: int, probability: float = 0.05) -> Soak:
    """A whole soak; what is wrong is in ``wrong``."""
    with scratch() as directory:
        running = Soak(directory, random.Random(seed), probability)
        trio.run(running.run, builds, at_once)
        running.wrong += store_faults(running.store)
        return running


def main() -> int:
    """Soak, and print the counts as JSON; 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--builds", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--probability", type=float, default=0.05, help="of a fault at a request")
    options = parser.parse_args()
    started = time.monotonic()
    found = soak(options.builds, options.at_once, options.seed, options.probability)
    report = {
        "seconds": round(time.monotonic() - started, 1),
        "builds": found.done,
        "requests": found.requests,
        "faults": sum(found.struck.values()),
        "struck": dict(sorted(found.struck.items())),
        "outcomes": dict(found.outcomes),
        "wrong": found.wrong,
        "holdings": [asdict(item) for item in found.holdings],
        "known_faults": len(NAMED),
    }
    sys.stdout.write(f"{json.dumps(report, indent=1)}\n")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
