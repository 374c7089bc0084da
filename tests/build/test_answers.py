"""What the cache would answer, and why a step would be executed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import trio

from asyncbuild.build.answers import StageAnswer, render_answers
from asyncbuild.build.builder import ask_image_cache
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.testing.registry_transport import DoubleTransport
from support.builds import HOST, Recorder, World, add_busybox

TEXT = f"""\
FROM {HOST}/base/busybox AS make
ARG V=1
COPY file /x/
RUN echo $V > /v
FROM scratch
COPY --from=make /v /v
"""


def ask(world: World, **more: Any) -> tuple[StageAnswer, ...]:
    """The answers to a build of `TEXT`."""
    settings = RegistrySettings(transport=DoubleTransport(world.double), chance=random.Random(7))
    return trio.run(ask_image_cache, world.request(TEXT, **more), settings, Recorder())


def reasons(stages: tuple[StageAnswer, ...]) -> list[tuple[str, ...] | str | None]:
    """For each step: ``hit``, or what changed."""
    return [
        "hit" if step.hit is not None else step.changed for stage in stages for step in stage.steps
    ]


def test_why_a_step_misses(shm_path: Path) -> None:
    """Before a build nothing is known; after it everything hits; then the input that changed is named."""
    world = World.below(shm_path)
    add_busybox(world.double)
    world.write({"file": "content"})
    assert reasons(ask(world)) == [None, None, None]
    world.run(TEXT, "out:1")
    assert reasons(ask(world)) == ["hit", "hit", "hit"]
    changed = reasons(ask(world, build_args={"V": "2"}))
    assert changed == ["hit", ("variable V",), ("the files",)]
    world.write({"file": "changed"})
    assert reasons(ask(world)) == [("the files",), ("the steps before it",), ("the files",)]


def test_nothing_is_executed_and_no_layer_fetched(shm_path: Path) -> None:
    """Asking costs the base's manifest and configuration, and no image appears, whatever is named as one."""
    world = World.below(shm_path)
    add_busybox(world.double)
    world.write({"file": "content"})
    ask(world, destinations=(Reference.parse(f"{HOST}/out:1"),))
    assert [item.method for item in world.double.log] == ["GET", "GET"]


def test_the_text_for_people(shm_path: Path) -> None:
    """Each step has its answer, its key and its reason; a value is never shown."""
    world = World.below(shm_path)
    add_busybox(world.double)
    world.write({"file": "content"})
    world.run(TEXT, "out:1", build_args={"V": "geheim"})
    text = render_answers(ask(world, build_args={"V": "anders"}))
    assert "stage make: 2 steps make files, 1 need not be executed" in text
    assert "why: variable V changed since the last build" in text
    assert "why: the files changed since the last build" in text
    assert "geheim" not in text
    assert "anders" not in text
