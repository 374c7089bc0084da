"""Whatever a registry cache does, the image is right: every request to it, struck by every fault.

A cache that refuses, hangs, serves damaged entries or loses a blob that it promised costs a build at most
the time to execute the steps.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from asyncbuild.build import workers as workers_module
from asyncbuild.build.request import BuildRequest, CachePlace
from asyncbuild.image.reference import Reference
from asyncbuild.testing.fault_scripts import NAMED
from asyncbuild.testing.registry import RegistryDouble
from support.builds import World
from support.matrix import BASE, Matrix, new_double

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


def request(world: World, **more: object) -> BuildRequest:
    """The build, with a login that the cache's host wants too."""
    return replace(world.request(DOCKERFILE, "app:1"), **more)  # type: ignore[arg-type]


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


def test_import_from_a_cache_that_fails(shm_path: Path, context: Path) -> None:
    """Whatever a cache answers, or does not, the image is the one that a build without it makes."""
    filled = new_double()
    world = World(filled, shm_path / "filling", context)
    Matrix(
        shm_path,
        context,
        lambda: filled,
        partial(request, cache_to=(CACHE,), cache_patience=math.inf),
        "nothing",
    ).run()
    assert world.double.tags["cache/app"]

    def make() -> RegistryDouble:
        double = new_double()
        for name in ("cache/app",):
            double.blobs[name] = dict(filled.blobs[name])
            double.manifests[name] = dict(filled.manifests[name])
            double.tags[name] = dict(filled.tags[name])
        return double

    check(Matrix(shm_path, context, make, partial(request, cache_from=(CACHE,)), "cache/app"), 3)
