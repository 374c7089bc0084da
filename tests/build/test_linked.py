"""``COPY --link`` upon a base that has changed: the cached layer is put upon the new one as it is.

What is expected comes from the Dockerfile reference (``COPY --link``, "Using the build cache") and from an
uncached build in an empty store; what was done, from the registry's log and the kernel's.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncbuild.build.answers import StageAnswer, render_answers
from asyncbuild.build.builder import ask_image_cache
from asyncbuild.build.request import CachePlace
from asyncbuild.cache.results import CachedResult
from asyncbuild.context import fingerprint
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.report.events import LayerPacked, Outcome, StepFinished
from asyncbuild.store.store import Store
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_transport import DoubleTransport
from support.builds import HOST, Recorder, World, add_busybox, manifest_of
from support.images import Layer, Node, symlink
from support.reads import reads_of

PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)
LINKED = f"""\
FROM {HOST}/base/busybox
COPY --link file /data/
COPY --link --chown=3:4 --exclude=ignored dir /data/dir/
ADD --link file /data/again
CMD ["one"]
"""
MIXED = f"""\
FROM {HOST}/base/busybox
RUN touch /one
COPY --link file /data/
COPY other /o
COPY --link dir /e/
RUN cat /data/file /e/inside /o > /all
"""
FILES = {"file": "content", "dir/inside": "more", "dir/ignored": "", "other": "others"}


@dataclass(frozen=True, slots=True)
class Build:
    """One build: how each step ended (``c`` for cached, ``x`` for executed), how many layers it packed, the
    files of the context that were read, the layers above the base's, and the requests.
    """

    cached: str
    packed: int
    read: frozenset[str]
    layers: tuple[str, ...]
    asked: tuple[str, ...]


@pytest.fixture(autouse=True)
def files_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was written in this very moment is read for each key, for its times may not tell."""
    monkeypatch.setattr(fingerprint, "_GRAIN_NS", 0)


def world(directory: Path, double: RegistryDouble | None = None) -> World:
    """A world with the base image and the context's files, all of one time that is long ago."""
    directory.mkdir(exist_ok=True)
    made = World.below(directory, double)
    if double is None:
        add_busybox(made.double)
    made.write(FILES)
    for path in (*made.context.rglob("*"), made.context):
        os.utime(path, (1, 1))
    return made


def another_base(where: World, *nodes: Node) -> None:
    """The base's name means another image from now on."""
    layer = Layer.of(Node("new", content=b"another base"), *nodes)
    add_busybox(where.double, "base/busybox", layer)


def build(where: World, dockerfile: str, **more: Any) -> Build:
    """Build, and see what that took."""
    recorder = Recorder()
    before = len(where.double.log)
    with reads_of(where.context) as read:
        trio.run(lambda: where.build(where.request(dockerfile, "out:1", **more), recorder=recorder))
    ends = [item for item in recorder.of(StepFinished) if item.step.text.split()[0] != "CMD"]
    document = manifest_of(where.double, "out", "1")
    layers = [item["digest"] for item in document["layers"]]
    asked = [f"{item.method} {item.path}" for item in where.double.log[before:]]
    return Build(
        "".join("c" if item.outcome is Outcome.CACHED else "x" for item in ends),
        len(recorder.of(LayerPacked)),
        frozenset(read),
        tuple(layers[-len({item.step for item in ends}) :]),  # a step may be taken twice
        tuple(asked),
    )


def uncached(where: World, directory: Path, dockerfile: str) -> Build:
    """The same context and registry, and nothing else that is known."""
    return build(World(where.double, directory, where.context), dockerfile, use_cache=False)


def ask(where: World, dockerfile: str, **more: Any) -> tuple[StageAnswer, ...]:
    """``plan --cache``."""
    settings = RegistrySettings(transport=DoubleTransport(where.double), chance=random.Random(7))
    return trio.run(ask_image_cache, where.request(dockerfile, **more), settings, Recorder())


def test_linked_layers_are_put_upon_another_base(shm_path: Path) -> None:
    """No file is read and no layer made again; the layers are those of an uncached build."""
    where = world(shm_path)
    first = build(where, LINKED)
    assert (first.cached, first.packed) == ("xxx", 3)
    assert first.read == {"file", "dir/inside"}
    another_base(where)
    second = build(where, LINKED)
    assert (second.cached, second.packed, second.read) == ("ccc", 0, frozenset())
    assert second.layers == first.layers
    assert second.layers == uncached(where, shm_path / "fresh", LINKED).layers
    assert build(where, LINKED).cached == "ccc"


def test_only_what_needs_the_base_is_executed(shm_path: Path) -> None:
    """RUN and plain COPY are executed again, between linked layers that are not, and see their files."""
    where = world(shm_path)
    build(where, MIXED)
    another_base(where)
    second = build(where, MIXED)
    assert (second.cached, second.packed) == ("xcxcx", 3)
    assert second.read == {"other"}
    fresh = uncached(where, shm_path / "fresh", MIXED)
    assert [second.layers[n] for n in (1, 2, 3)] == [fresh.layers[n] for n in (1, 2, 3)]
    assert build(where, MIXED).cached == "ccccc"


def registry_cache(_: Path) -> tuple[CachePlace, CachePlace]:
    """To and from a registry."""
    return PLACE, PLACE


def directory_cache(path: Path) -> tuple[CachePlace, CachePlace]:
    """To and from a directory."""
    place = CachePlace(path=path / "kept", everything=True)
    return place, place


def inline_cache(_: Path) -> tuple[CachePlace, CachePlace]:
    """The image itself."""
    return CachePlace(), CachePlace(Reference.parse(f"{HOST}/out:1"))


@pytest.mark.parametrize("places", [registry_cache, directory_cache, inline_cache])
def test_on_another_machine(
    shm_path: Path, places: Callable[[Path], tuple[CachePlace, CachePlace]]
) -> None:
    """The base has changed, and the store is empty: each file is read once, for its key, and no layer is
    fetched, of the base or of the cache.
    """
    to, from_ = places(shm_path)
    one = world(shm_path / "one")
    first = build(one, LINKED, cache_to=(to,))
    another_base(one)
    other = world(shm_path / "other", one.double)
    second = build(other, LINKED, cache_from=(from_,))
    assert (second.cached, second.packed, second.layers) == ("ccc", 0, first.layers)
    assert second.read == {"file", "dir/inside"}
    if places is registry_cache:
        blobs = [line for line in second.asked if line.startswith("GET") and "/blobs/" in line]
        assert len(blobs) == 1  # the configuration of the new base
        document = manifest_of(one.double, "out", "1")
        sent = [line for line in second.asked if line.startswith(("PUT", "PATCH"))]
        assert [line for line in sent if "/blobs/" in line and "digest=" in line] == [
            line for line in sent if document["config"]["digest"].split(":")[1] in line
        ]


def test_the_entry_for_the_new_base_is_exported(shm_path: Path) -> None:
    """What was put upon another base is there as a whole for the next machine, RUN and all."""
    one = world(shm_path / "one")
    build(one, MIXED, cache_to=(PLACE,))
    another_base(one)
    two = world(shm_path / "two", one.double)
    assert build(two, MIXED, cache_from=(PLACE,), cache_to=(PLACE,)).cached == "xcxcx"
    three = world(shm_path / "three", one.double)
    assert build(three, MIXED, cache_from=(PLACE,)).cached == "ccccc"


def test_plan_says_so(shm_path: Path) -> None:
    """Each linked layer that will be used is named, with the place that has it."""
    one = world(shm_path / "one")
    build(one, MIXED, cache_to=(PLACE,))
    another_base(one)
    for where in (one, world(shm_path / "other", one.double)):
        (stage,) = ask(where, MIXED, cache_from=(PLACE,))
        assert [step.linked is not None for step in stage.steps] == [
            False,
            True,
            False,
            True,
            False,
        ]
        assert [step.hit for step in stage.steps] == [None] * 5
        assert stage.skipped == 2
        text = render_answers([stage])
        source = "this machine" if where is one else f"registry {HOST}/team/cache:main"
        assert "5 steps make files, 2 need not be executed" in text
        assert (
            f"COPY --link file /data/: hit of its layer ({source}), which --link puts upon" in text
        )
        assert "COPY other /o: miss" in text


CHANGES: list[tuple[str, Callable[[World], None], str]] = [
    ("content", lambda where: where.write({"file": "changed"}), "xcx"),
    ("mode", lambda where: (where.context / "file").chmod(0o600), "xcx"),
    ("an excluded file", lambda where: where.write({"dir/ignored": "changed"}), "ccc"),
    ("a new file", lambda where: where.write({"dir/new": ""}), "cxc"),
]


@pytest.mark.parametrize(("name", "change", "expected"), CHANGES)
def test_its_own_inputs_count(
    shm_path: Path, name: str, change: Callable[[World], None], expected: str
) -> None:
    """Upon another base each linked layer is made again exactly if what it copies has changed: those behind
    it are not.
    """
    where = world(shm_path)
    build(where, LINKED)
    another_base(where)
    change(where)
    assert build(where, LINKED).cached == expected, name


FLAGS = [
    ("chown", "COPY --link --chown=5:6 file /d/"),
    ("destination", "COPY --link file /e/"),
    ("source", "COPY --link other /d/"),
    ("instruction", "ADD --link file /d/"),
    ("heredoc", "COPY --link <<E /d/file\ncontent\nE"),
    ("not linked", "COPY file /d/"),
    ("chmod: not linked", "COPY --link --chmod=600 file /d/"),
]


@pytest.mark.parametrize(("name", "line"), FLAGS)
def test_flags_count(shm_path: Path, name: str, line: str) -> None:
    """Another instruction is another layer, upon the same base and upon another one."""
    where = world(shm_path)
    build(where, f"FROM {HOST}/base/busybox\nCOPY --link file /d/")
    another_base(where)
    assert build(where, f"FROM {HOST}/base/busybox\n{line}").cached == "x", name


def test_a_relative_destination_is_the_one_in_the_image(shm_path: Path) -> None:
    """The base's WORKDIR decides where it goes: the layer of another directory is not taken."""
    where = world(shm_path)
    text = "FROM scratch AS base\nWORKDIR /{}\nFROM base\nCOPY --link file here"
    first = build(where, text.format("one"))
    assert first.cached == "xx"
    second = build(where, text.format("two"))
    assert second.cached == "xx"
    assert second.layers[-1] != first.layers[-1]


def test_links_in_the_base_are_not_followed(shm_path: Path) -> None:
    """A base with a link at the destination gets the very same layer, which puts a directory there."""
    where = world(shm_path)
    first = build(where, LINKED)
    another_base(where, symlink("data", "new-place"))
    second = build(where, LINKED + "RUN test ! -L /data && test ! -e /new-place && cat /data/file")
    assert second.cached == "cccx"
    assert second.layers[:3] == first.layers


def test_from_another_stage(shm_path: Path) -> None:
    """A stage that only linked layers ask for is not executed where their stage has another base; if its own
    base is another one, it is.
    """
    where = world(shm_path)
    text = (
        "FROM {} AS made\nRUN echo made > /made\n"
        "FROM {}\nRUN touch /one\nCOPY --link --from=made /made /made\nRUN cat /made"
    )
    base, tools = f"{HOST}/base/busybox", f"{HOST}/base/tools"
    add_busybox(where.double, "base/tools")
    build(where, text.format(tools, base))
    another_base(where)
    assert build(where, text.format(tools, base)).cached == "xcx"
    assert sorted(build(where, text.format(base, base)).cached) == list("cxxx")


def test_behind_a_step_that_has_no_key(shm_path: Path) -> None:
    """What is below a linked layer may have no key at all."""
    where = world(shm_path)
    for _ in range(2):
        built = build(
            where,
            f"FROM {HOST}/base/busybox AS a\nRUN touch /a\nFROM {HOST}/base/busybox\n"
            "COPY --link file /f\nRUN --mount=from=a,target=/m test -e /m/a",
        )
    assert built.cached == "cc"


def test_a_promise_that_is_not_kept(shm_path: Path) -> None:
    """A cache that has lost a linked layer's blob costs a second attempt, and the image is right."""
    one = world(shm_path / "one")
    first = build(one, MIXED, cache_to=(PLACE,))
    another_base(one)
    other = world(shm_path / "other", one.double)
    for repository in ("team/cache", "out"):
        del one.double.blobs[repository][Digest.parse(first.layers[1])]
    second = build(other, MIXED, cache_from=(PLACE,))
    assert second.cached[-4:] == "xxcx"  # the RUN before them may be kept of the first attempt
    assert second.layers[1] == first.layers[1]


def test_an_entry_that_brings_more_is_not_used(shm_path: Path) -> None:
    """The key of a linked layer leads to one layer: with others below it, it is somebody's mistake."""
    where = world(shm_path)
    build(where, MIXED)
    another_base(where)
    hits = [step.linked for step in ask(where, MIXED)[0].steps if step.linked is not None]
    with Store.open(where.store) as store:
        for hit in hits:
            layer = hit.result.layer
            store.put_result(hit.key.hex, CachedResult(layer, (layer,), 1, 1).encode())
    assert build(where, MIXED).cached == "xxxxx"
