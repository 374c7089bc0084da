"""Builds in this process, against a registry double and a store in memory; and what a build leaves behind."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import select
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import trio

from asyncbuild.build.builder import build_image
from asyncbuild.build.futures import Ledger
from asyncbuild.build.request import BuildRequest, BuildResult
from asyncbuild.build.workers import WorkerPool
from asyncbuild.image.manifest import parse_manifest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.report.events import Event, RunOutput
from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_transport import DoubleTransport
from support.bases import busybox_image
from support.images import Image, Layer

HOST = "registry.example"
SCRATCH = "/asyncbuild-test-"
"""In the path of every scratch directory of these tests: other programs on a machine mount things too."""
CREATED = 1_700_000_000
AMD64 = Platform("linux", "amd64")


class Recorder:
    """A reporter that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)

    def tick(self) -> None:
        """Time does not matter here."""

    def close(self) -> None:
        """Nothing is held back."""

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def output(self) -> str:
        """Everything that RUNs wrote."""
        return b"".join(event.data for event in self.of(RunOutput)).decode()


@dataclass(frozen=True, slots=True)
class World:
    """Where a build happens: a registry double that is every host, a store, a context."""

    double: RegistryDouble
    store: Path
    context: Path

    @classmethod
    def below(cls, directory: Path, double: RegistryDouble | None = None) -> World:
        """A new one: an empty store and an empty context below ``directory``."""
        world = cls(double or RegistryDouble(), directory / "store", directory / "context")
        world.context.mkdir()
        return world

    def write(self, files: Mapping[str, str]) -> None:
        """Put files into the context."""
        for name, text in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def entries(self, result: BuildResult, place: int) -> dict[str, tarfile.TarInfo]:
        """The entries of one layer of an image that was built here, by name; -1 is the topmost layer."""
        descriptor = result.manifest.layers[place]
        data = gzip.decompress((self.store / "blobs/sha256" / descriptor.digest.hex).read_bytes())
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {item.name: item for item in tar}

    def request(self, dockerfile: str, *names: str, **more: Any) -> BuildRequest:
        """A request to build ``dockerfile`` and push it as ``names`` (``HOST/`` is put before them)."""
        request = BuildRequest(
            context=self.context,
            dockerfile=dockerfile.encode(),
            dockerfile_path=self.context / "Dockerfile",
            store=self.store,
            platform=AMD64,
            build_platform=AMD64,
            created=CREATED,
            destinations=tuple(Reference.parse(f"{HOST}/{name}") for name in names),
            workers=2,
        )
        return replace(request, **more)

    async def build(
        self,
        request: BuildRequest,
        *,
        recorder: Recorder | None = None,
        settings: RegistrySettings | None = None,
        ledger: Ledger | None = None,
        workers: WorkerPool | None = None,
    ) -> BuildResult:
        """Build it, with the double as the whole network."""
        chosen = replace(
            settings or RegistrySettings(),
            transport=DoubleTransport(self.double),
            chance=random.Random(7),
        )
        return await build_image(
            request, chosen, recorder or Recorder(), ledger=ledger, workers=workers
        )

    def run(self, dockerfile: str, *names: str, **more: Any) -> BuildResult:
        """Build from outside trio."""
        return trio.run(self.build, self.request(dockerfile, *names, **more))

    def wrong(self) -> list[str]:
        """What is in the store and must not be visible there."""
        return store_faults(self.store)


@cache
def _busybox() -> Image:
    return busybox_image()


def add_image(double: RegistryDouble, repository: str, image: Image, tag: str = "latest") -> None:
    """Put an image into a double."""
    for layer in image.layers:
        double.add_blob(repository, layer.data)
    double.add_blob(repository, image.configuration())
    double.add_manifest(repository, tag, parse_manifest(image.manifest(), ""))


def add_busybox(double: RegistryDouble, repository: str = "base/busybox", *more: Layer) -> Image:
    """Put the busybox base, with further layers on top of it, into a double."""
    image = replace(_busybox(), layers=(*_busybox().layers, *more))
    add_image(double, repository, image)
    return image


def store_faults(store: Path) -> list[str]:
    """Blobs that are not what their name says, layers without facts, and work places of the living."""
    wrong = []
    for path in (store / "blobs/sha256").glob("*"):
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            wrong.append(f"blob {path.name} holds other bytes")
    for path in (store / "layers").glob("*/*"):
        try:
            UnpackedFacts.from_json((path / "facts.json").read_text())
        except (OSError, ValueError) as error:
            wrong.append(f"layer {path.name} has no facts: {error}")
    alive = [path.name for path in (store / "tmp").glob("*") if not path.name.startswith("dead-")]
    return wrong + [f"work place {name} is still there" for name in alive]


@dataclass(frozen=True, slots=True)
class Belongings:
    """What this process has of the system's: mounts of its tests, living descendants, descriptors."""

    mounts: tuple[str, ...]
    children: frozenset[str]
    descriptors: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Belongings:
        """As it is at this moment."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        ours = tuple(line for line in mounts if SCRATCH in line)
        return cls(ours, frozenset(descendants(os.getpid())), _descriptors())

    def more_than(self, earlier: Belongings) -> list[str]:
        """What is here now and was not ``earlier``."""
        mounts = sorted(set(self.mounts) - set(earlier.mounts))
        children = sorted(self.children - earlier.children)
        descriptors = [
            f"descriptor {number}: {what}"
            for number, what in self.descriptors.items()
            if number not in earlier.descriptors
        ]
        return [*mounts, *children, *descriptors]


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def descendants(ancestor: int) -> dict[str, int]:
    """Every process below ``ancestor`` that is no zombie: a text that tells it, and its id."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(name))
    found: dict[str, int] = {}
    wave = [ancestor]
    while wave:
        wave = [child for pid in wave for child in children.get(pid, ())]
        found.update({f"process {pid}: {_command_line(pid)}": pid for pid in wave})
    return found


@contextmanager
def watching(ancestor: int) -> Iterator[list[int]]:
    """Descriptors of all processes below ``ancestor``, as they are now."""
    with ExitStack() as stack:
        handles: list[int] = []
        for pid in descendants(ancestor).values():
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                handles.append(os.pidfd_open(pid))
                stack.callback(os.close, handles[-1])
        yield handles


def ended(handles: list[int], patience: float = 0.0) -> bool:
    """Whether all of these processes have ended, or do so within ``patience`` seconds."""
    return all(select.select([handle], [], [], patience)[0] for handle in handles)


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "(gone)"
    return words.replace(b"\0", b" ").decode("utf-8", "replace")[:200]


def requests_of(double: RegistryDouble, *methods: str) -> list[str]:
    """``METHOD path`` of every request, in the order of their begin; all methods if none is named."""
    return [
        f"{entry.method} {entry.path}"
        for entry in double.log
        if not methods or entry.method in methods
    ]


def manifest_of(double: RegistryDouble, repository: str, tag: str) -> dict[str, Any]:
    """A manifest that was pushed, as JSON."""
    document: dict[str, Any] = json.loads(double.manifest(repository, tag).raw)
    return document


def layer_digests(image: Image | Sequence[Layer]) -> list[str]:
    """The digests of an image's layers, bottom first."""
    layers = image.layers if isinstance(image, Image) else image
    return [layer.digest for layer in layers]


class GatedDouble(RegistryDouble):
    """A double that holds answers back until the requests that have come make a condition true.

    So a test states which requests must be under way at once, without looking at a clock.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._gates: list[tuple[Callable[[Asked], bool], Callable[[], bool]]] = []
        self._changed = trio.Event()

    def hold(self, which: Callable[[Asked], bool], until: Callable[[], bool]) -> None:
        """Answer the requests that ``which`` finds only when ``until`` is true."""
        self._gates.append((which, until))

    async def wait(self, until: Callable[[], bool]) -> None:
        """Return when ``until`` is true; it is asked whenever a request has come or was answered."""
        while not until():
            await self._changed.wait()

    def begin(self, asked: Asked) -> LoggedRequest:
        """Write a request down, and wake those that wait for it."""
        entry = super().begin(asked)
        self.wake()
        return entry

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer one request, when it may be."""
        for which, until in self._gates:
            if which(asked):
                await self.wait(until)
        answered = await super().handle(asked, entry)
        self.wake()
        return answered

    def wake(self) -> None:
        """Ask again whether what is held back may go."""
        self._changed.set()
        self._changed = trio.Event()
