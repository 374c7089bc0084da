"""Every request of a build, struck by every fault: how the requests are told, and one build with a fault."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio
import trio.testing

from asyncbuild.build.futures import Ledger
from asyncbuild.build.request import BuildRequest
from asyncbuild.build.workers import WorkerPool
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Manifest
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.testing.fault_scripts import NAMED, named_rule
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_auth import TokenAccess
from support.builds import Belongings, Recorder, World, add_image, store_faults
from support.images import Image, Layer, directory, text

TINY = Image(
    [
        Layer.of(directory("etc"), text("etc/passwd", "root:x:0:0::/:/bin/sh\n")),
        Layer.of(directory("opt"), text("opt/tool", "tool\n" * 100)),
    ]
)
BASE = "base.example"
LOGIN = Credential("builder", "the builder's password")


class Logins:
    """A keychain: a login for the hosts that are pushed to, none for where the base is."""

    async def credential(self, registry: str, repository: str = "") -> Credential:
        """The login of a registry."""
        await trio.lowlevel.checkpoint()
        return ANONYMOUS if registry == BASE else LOGIN


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A request of a build: the ``nth`` of those with this method and path (a regular expression)."""

    method: str
    path: str
    nth: int

    def __str__(self) -> str:
        return f"{self.method} {self.path} #{self.nth}"


def places(double: RegistryDouble) -> list[Place]:
    """Every request that was made, told so that the same build makes the same."""
    counts: Counter[tuple[str, str]] = Counter()
    found = []
    for entry in double.log:
        path = re.sub(r"upload-\d+", r"upload-\\d+", re.escape(entry.path).replace(r"\-", "-"))
        key = (entry.method, f"^{path}$")
        counts[key] += 1
        found.append(Place(*key, counts[key]))
    return sorted(found)


def new_double() -> RegistryDouble:
    """A registry with tokens that has the base: another repository, and another host if one likes."""
    double = RegistryDouble(TokenAccess({LOGIN.username: LOGIN.password}))
    add_image(double, "base/tiny", TINY)
    add_image(double, "base/other", TINY)
    return double


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one build: the image's digest or the error, and what is wrong besides."""

    digest: Digest | None
    error: AsyncbuildError | None
    wrong: tuple[str, ...]

    @property
    def name(self) -> str:
        """``done``, or the error's class."""
        return "done" if self.error is None else type(self.error).__name__


async def build_once(
    directory: Path, world: World, request: BuildRequest, workers: WorkerPool
) -> Outcome:
    """One build with a store of its own below ``directory``; looks at everything that it leaves."""
    ledger, recorder = Ledger(), Recorder()
    settings = RegistrySettings(keychain=Logins())
    digest, error = None, None
    try:
        result = await world.build(
            replace(request, store=directory),
            recorder=recorder,
            settings=settings,
            ledger=ledger,
            workers=workers,
        )
        digest = result.manifest.digest
    except AsyncbuildError as raised:
        error = raised
    wrong = [*store_faults(directory), *(f"pending: {item}" for item in ledger.unsettled)]
    wrong += image_faults(world.double, "app", "1", digest)
    return Outcome(digest, error, tuple(wrong))


def image_faults(
    double: RegistryDouble, repository: str, tag: str, digest: Digest | None
) -> Iterator[str]:
    """What is wrong with the image under a tag; nothing may be there that is not whole."""
    for name, data in double.blobs.get(repository, {}).items():
        if not name.matches(data):
            yield f"the registry has other bytes as {name}"
    found = double.tags.get(repository, {}).get(tag)
    if digest is not None and found != digest:
        yield f"{repository}:{tag} is {found} and not {digest}"
    if found is None:
        return
    manifest = double.manifest(repository, tag)
    assert isinstance(manifest, Manifest)
    blobs = double.blobs.get(repository, {})
    for item in (manifest.config, *manifest.layers):
        if item.digest not in blobs:
            yield f"{repository}:{tag} lacks {item.digest}"


def with_fault(double: RegistryDouble, place: Place, fault: str) -> RegistryDouble:
    """``double`` with one named fault at one request."""
    double.faults.add(named_rule(fault, place.method, place.path, place.nth))
    return double


AT_ONCE = 4


@dataclass(slots=True)
class Matrix:
    """A build, its requests (those that match ``about``), and what comes of it under faults."""

    directory: Path
    context: Path
    make: Callable[[], RegistryDouble]
    request: Callable[[World], BuildRequest]
    about: str = ""
    outcomes: dict[tuple[Place, str], Outcome] = field(default_factory=dict)
    count: int = 0

    async def one(
        self, workers: WorkerPool, place: Place | None, fault: str
    ) -> tuple[Outcome, World]:
        """Build once, perhaps with a fault at a request."""
        self.count += 1
        store = self.directory / f"store-{self.count}"
        world = World(self.make(), store, self.context)
        if place is not None:
            with_fault(world.double, place, fault)
        outcome = await build_once(store, world, self.request(world), workers)
        await trio.to_thread.run_sync(shutil.rmtree, store)
        return outcome, world

    async def play(self, cases: list[tuple[Place, str]], workers: WorkerPool) -> None:
        """Build with each fault, some at once."""

        async def some() -> None:
            while cases:
                place, fault = cases.pop()
                self.outcomes[place, fault] = (await self.one(workers, place, fault))[0]

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(some)

    async def _run(self) -> tuple[Outcome, list[Place]]:
        async with WorkerPool(3) as workers:
            outcome, world = await self.one(workers, None, "")
            found = [place for place in places(world.double) if re.search(self.about, place.path)]
            tasks = trio.lowlevel.current_statistics().tasks_living
            await self.play([(place, fault) for place in found for fault in NAMED], workers)
            assert trio.lowlevel.current_statistics().tasks_living == tasks
        return outcome, found

    def run(self) -> tuple[Outcome, list[Place]]:
        """Without a fault, then with each at each request; the first outcome, and the requests."""
        before = Belongings.now()
        clock = trio.testing.MockClock(autojump_threshold=0.01)
        found = trio.run(self._run, clock=clock)
        left = Belongings.now().more_than(before)
        if left:
            raise AssertionError(left)
        return found
