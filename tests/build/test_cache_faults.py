"""Whatever a registry cache does, the image is right: every request to it, struck by every fault.

A cache that refuses, hangs, serves damaged entries or loses a blob that it promised costs a build at most
the time to execute the steps.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncbuild.build import workers as workers_module
from asyncbuild.build.request import BuildRequest, CachePlace
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.report.events import Outcome, StepFinished, WarningRaised
from asyncbuild.testing.fault_scripts import NAMED
from asyncbuild.testing.faults import Corrupt, Hang, Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.builds import Recorder, World
from support.matrix import BASE, Logins, Matrix, new_double

DOCKERFILE = f"""\
FROM {BASE}/base/tiny AS tools
FROM scratch
COPY hello.txt /
COPY --from=tools /opt/tool /usr/bin/
LABEL a=b
"""
CACHE = CachePlace(Reference.parse("cache.example/cache/app:main"), everything=True)


@pytest.fixture
def context(shm_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A context; and children are waited for, for processes know no mock clock."""
    monkeypatch.setattr(workers_module, "_CLOSING_SECONDS", math.inf)
    path = shm_path / "context"
    path.mkdir()
    (path / "hello.txt").write_text("hello\n")
    return path


def request(world: World, **more: Any) -> BuildRequest:
    """The build, with a login that the cache's host wants too."""
    return replace(world.request(DOCKERFILE, "app:1"), **more)


def check(matrix: Matrix, least: int) -> Counter[str]:
    """Play it; every image is right and every build is done."""
    right, found = matrix.run()
    assert right.error is None
    assert len(found) >= least
    assert len(matrix.outcomes) == len(found) * len(NAMED)
    wrong = [
        f"{fault} at {place}: {outcome.name} {outcome.error} {outcome.wrong}"
        for (place, fault), outcome in matrix.outcomes.items()
        if outcome.error is not None or outcome.wrong or outcome.digest != right.digest
    ]
    assert wrong == []
    return Counter(outcome.name for outcome in matrix.outcomes.values())


def test_export_to_a_cache_that_fails(shm_path: Path, context: Path) -> None:
    """Whatever happens to an export, the image is pushed."""
    export = partial(request, cache_to=(CACHE,), cache_patience=math.inf)
    check(Matrix(shm_path, context, new_double, export, about="cache/app"), 8)


INLINE = CachePlace(Reference.parse("cache.example/cache/app:image"))
SETTINGS = RegistrySettings(keychain=Logins())
BOTH = pytest.mark.parametrize("kind", ["registry", "inline"])


def filled(directory: Path, context: Path, kind: str) -> Callable[[], RegistryDouble]:
    """Makes registries that have what a build without any fault left in its cache."""
    double = new_double()
    more: dict[str, Any] = {"cache_to": (CACHE,), "cache_patience": math.inf}
    if kind == "inline":
        more = {"cache_to": (CachePlace(),), "destinations": (INLINE.reference,)}
    build: Callable[[World], BuildRequest] = partial(request, **more)
    outcome, _ = Matrix(directory, context, lambda: double, build, "nothing").run()
    assert outcome.error is None
    assert double.tags["cache/app"]

    def make() -> RegistryDouble:
        made = new_double()
        made.blobs["cache/app"] = dict(double.blobs["cache/app"])
        made.manifests["cache/app"] = dict(double.manifests["cache/app"])
        made.tags["cache/app"] = dict(double.tags["cache/app"])
        return made

    return make


def importing(kind: str) -> Callable[[World], BuildRequest]:
    """A build that asks the cache."""
    return partial(request, cache_from=(CACHE if kind == "registry" else INLINE,))


@BOTH
def test_import_from_a_cache_that_fails(shm_path: Path, context: Path, kind: str) -> None:
    """Whatever a cache answers, or does not, the image is the one that a build without it makes."""
    make = filled(shm_path, context, kind)
    check(Matrix(shm_path, context, make, importing(kind), "cache/app"), 3)


def images_are_right(
    directory: Path,
    context: Path,
    make: Callable[[], RegistryDouble],
    build: Callable[[World], BuildRequest],
    *rules: Rule,
) -> None:
    """With any of these faults, all the time, the image is the one without."""
    right, _ = Matrix(directory, context, make, build, "nothing").run()
    for rule in rules:

        def faulty(rule: Rule = rule) -> RegistryDouble:
            double = make()
            double.faults.add(rule)
            return double

        found, _ = Matrix(directory, context, faulty, build, "nothing").run()
        assert (found.error, found.wrong) == (None, ()), rule
        assert found.digest == right.digest is not None, rule


ALWAYS = {
    "hang": Hang(),
    "hang in the middle": Hang(after=10),
    **{str(status): Respond(status) for status in (401, 404, 429, 500)},
}


@pytest.mark.parametrize("action", ALWAYS.values(), ids=ALWAYS)
@pytest.mark.parametrize("kind", ["registry", "inline", "export"])
def test_a_cache_that_never_works(
    shm_path: Path, context: Path, kind: str, action: Hang | Respond
) -> None:
    """From the first request to the last."""
    make = new_double if kind == "export" else filled(shm_path, context, kind)
    build = partial(request, cache_to=(CACHE,)) if kind == "export" else importing(kind)
    rule = Rule(action, "*", "/cache/app/", times=None)
    images_are_right(shm_path, context, make, build, rule)


@BOTH
def test_a_cache_with_damaged_blobs(shm_path: Path, context: Path, kind: str) -> None:
    """Each blob, damaged for good: it is found, and the step is executed."""
    make = filled(shm_path, context, kind)
    layers = [name for name, data in make().blobs["cache/app"].items() if len(data) > 60]
    assert layers
    rules = [Rule(Corrupt(50), "GET", f"/cache/app/blobs/{name}", times=None) for name in layers]
    images_are_right(shm_path, context, make, importing(kind), *rules)


@BOTH
def test_a_cache_with_damaged_manifests(shm_path: Path, context: Path, kind: str) -> None:
    """A byte wrong, wherever in a manifest or an index: no part of it is believed."""
    make = filled(shm_path, context, kind)
    size = max(len(raw) for _, raw in make().manifests["cache/app"].values())
    where = range(5, size, size // 6)
    rules = [Rule(Corrupt(byte), "GET", "/cache/app/manifests/", times=None) for byte in where]
    images_are_right(shm_path, context, make, importing(kind), *rules)


def test_an_entry_under_the_tag_of_another(shm_path: Path, context: Path) -> None:
    """Tags that were mixed up lead to no hit: an entry says whose it is."""
    make = filled(shm_path, context, "registry")

    def mixed() -> RegistryDouble:
        double = make()
        tags = double.tags["cache/app"]
        entries = [name for name in tags if name.startswith("k-")]
        assert len(entries) > 1
        found = [tags[name] for name in entries]
        tags.update(zip(entries, [*found[1:], found[0]], strict=True))
        del tags["main"]
        return double

    right, _ = Matrix(shm_path, context, make, importing("registry"), "nothing").run()
    found, _ = Matrix(shm_path, context, mixed, importing("registry"), "nothing").run()
    assert found.error is None
    assert found.digest == right.digest


def truncate(path: Path) -> None:
    """Half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def spoil(path: Path) -> None:
    """One byte in the middle is another one."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_directory(path: Path) -> None:
    """Something else stands there."""
    path.unlink()
    path.mkdir()


DAMAGE = [truncate, spoil, Path.unlink, replace_by_directory]


@pytest.mark.parametrize("damage", DAMAGE, ids=["truncated", "spoilt", "lost", "directory"])
@pytest.mark.parametrize("what", ["blobs/sha256/*", "results/*", "index.json", "oci-layout"])
def test_a_damaged_directory(
    shm_path: Path, context: Path, what: str, damage: Callable[[Path], None]
) -> None:
    """Each kind of file of a cache in a directory: reading it, and writing to it again."""
    place = CachePlace(path=shm_path / "kept", everything=True)

    def once(store: str, **more: Any) -> tuple[Digest, Recorder]:
        recorder = Recorder()
        world = World(new_double(), shm_path / store, context)
        made = partial(world.build, request(world, **more), recorder=recorder, settings=SETTINGS)
        return trio.run(made).manifest.digest, recorder

    right, _ = once("one", cache_to=(place,))
    assert len(list((shm_path / "kept/results").iterdir())) > 1
    for path in (shm_path / "kept").glob(what):
        damage(path)
    assert once("two", cache_from=(place,), cache_to=(place,))[0] == right
    assert once("three", cache_from=(place,))[0] == right


@pytest.mark.parametrize("what", ["", "tmp", "results"])
def test_a_directory_that_cannot_be_written(shm_path: Path, context: Path, what: str) -> None:
    """A file stands where a directory is needed: a warning, and the image."""
    kept = shm_path / "kept"
    (kept / what).parent.mkdir(exist_ok=True)
    (kept / what).write_text("in the way")
    recorder = Recorder()
    world = World(new_double(), shm_path / "store", context)
    place = CachePlace(path=kept, everything=True)
    made = request(world, cache_from=(place,), cache_to=(place,))
    trio.run(partial(world.build, made, recorder=recorder, settings=SETTINGS))
    assert "1" in world.double.tags["app"]
    assert all(event.outcome is Outcome.EXECUTED for event in recorder.of(StepFinished))
    warnings = [event.text for event in recorder.of(WarningRaised)]
    assert any(f"directory {kept} cannot be written" in text for text in warnings)
