"""The cache of a build: what hits, what misses, and that a hit is never wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncbuild.build.request import CachePlace
from asyncbuild.build.run_options import RunOptions, Secret
from asyncbuild.build.workers import WorkerPool
from asyncbuild.errors import RunFailed
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.layers.pack import PackedLayer
from asyncbuild.report.events import Event, Outcome, StepFinished
from asyncbuild.testing.faults import Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, Recorder, World, add_busybox, add_image
from support.images import Layer, Node

BASE = f"FROM {HOST}/base/busybox\n"
FIRST = (
    BASE
    + """\
ARG SEEN=1
ENV COLOUR=red
LABEL a=1
RUN echo one > /one
COPY file dir /data/
WORKDIR /work
RUN echo two > /two
CMD ["one"]
"""
)
FILES = {"file": "content", "dir/inside": "more", "other": "unused", ".dockerignore": "ignored*\n"}
PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)


@dataclass(frozen=True)
class Build:
    """One build: how each step that makes a layer ended, and the image's digest."""

    cached: str
    digest: str


def world(directory: Path, double: RegistryDouble | None = None) -> World:
    """A world with the base image and the context's files."""
    directory.mkdir(exist_ok=True)
    made = World.below(directory, double)
    if double is None:
        add_busybox(made.double)
    made.write(FILES)
    return made


def build(where: World, dockerfile: str, **more: Any) -> Build:
    """Build; ``cached`` has ``c`` for each cached file step and ``x`` for each executed one."""
    recorder = Recorder()

    async def main() -> str:
        request = where.request(dockerfile, "out:1", **more)
        result = await where.build(request, recorder=recorder)
        return str(result.manifest.digest)

    digest = trio.run(main)
    finished = recorder.of(StepFinished)
    files = [item for item in finished if item.step.text.split()[0] in ("RUN", "COPY", "WORKDIR")]
    marks = "".join("c" if item.outcome is Outcome.CACHED else "x" for item in files)
    return Build(marks, digest)


def rewrite(name: str, text: str) -> Callable[[World], None]:
    """A change of a file's content."""
    return lambda where: where.write({name: text})


def touch(where: World) -> None:
    """Another time for a file and for a directory."""
    os.utime(where.context / "file", (1, 1))
    os.utime(where.context / "dir", (2, 2))


def chmod(where: World) -> None:
    """Another mode for a file."""
    (where.context / "dir/inside").chmod(0o700)


def rename(where: World) -> None:
    """Another name for a file below a directory that is copied."""
    (where.context / "dir/inside").rename(where.context / "dir/outside")


def link(where: World) -> None:
    """A link instead of a file of the same content."""
    (where.context / "dir/inside").unlink()
    (where.context / "dir/inside").symlink_to("nowhere")


def nothing(_: World) -> None:
    """No change of the context."""


CONTEXT_CHANGES = [
    ("nothing", nothing, "cccc"),
    ("times only", touch, "cccc"),
    ("a file that no step names", rewrite("other", "changed"), "cccc"),
    ("an ignored file", rewrite("ignored.txt", "new"), "cccc"),
    ("content", rewrite("file", "changed"), "cxxx"),
    ("content of the same size", rewrite("file", "tnetnoc"), "cxxx"),
    ("content below a directory", rewrite("dir/inside", "changed"), "cxxx"),
    ("a new file below a directory", rewrite("dir/new", ""), "cxxx"),
    ("mode", chmod, "cxxx"),
    ("name", rename, "cxxx"),
    ("kind", link, "cxxx"),
]


@pytest.mark.parametrize(("name", "change", "expected"), CONTEXT_CHANGES)
def test_one_change_of_the_context(
    shm_path: Path, name: str, change: Callable[[World], None], expected: str
) -> None:
    """The steps before the COPY hit, it and those behind it miss exactly if what it copies changed."""
    where = world(shm_path)
    assert build(where, FIRST).cached == "xxxx", name
    change(where)
    assert build(where, FIRST).cached == expected, name


DOCKERFILE_CHANGES = [
    ("a comment", ("RUN echo one", "# words\nRUN echo one"), "cccc"),
    ("continuation lines", ("RUN echo one > /one", "RUN \\\n echo one > /one"), "cccc"),
    ("a label", ("LABEL a=1", "LABEL a=2"), "cccc"),
    ("CMD", ('CMD ["one"]', 'CMD ["two"]'), "cccc"),
    ("a port", ("LABEL a=1", "EXPOSE 80"), "cccc"),
    ("a volume", ("LABEL a=1", "VOLUME /v"), "cccc"),
    ("the first command", ("echo one", "echo 1"), "xxxx"),
    ("the last command", ("echo two", "echo 2"), "cccx"),
    ("a variable that RUN sees", ("COLOUR=red", "COLOUR=blue"), "xxxx"),
    ("a variable's name", ("COLOUR=red", "COLOR=red"), "xxxx"),
    ("a default of an ARG", ("SEEN=1", "SEEN=2"), "xxxx"),
    ("an ARG more", ("ENV COLOUR", "ARG MORE=1\nENV COLOUR"), "xxxx"),
    ("an ARG without value", ("ENV COLOUR", "ARG MORE\nENV COLOUR"), "cccc"),
    ("the user before RUN", ("RUN echo one", "USER 0\nRUN echo one"), "xxxx"),
    ("the shell", ("RUN echo one", 'SHELL ["/bin/sh", "-ec"]\nRUN echo one'), "xxxx"),
    ("the directory of RUN", ("WORKDIR /work", "WORKDIR /works"), "ccxx"),
    ("the destination", ("/data/\n", "/date/\n"), "cxxx"),
    ("an owner", ("COPY file", "COPY --chown=1:2 file"), "cxxx"),
    ("a mode", ("COPY file", "COPY --chmod=600 file"), "cxxx"),
    ("the order of sources", ("file dir", "dir file"), "cxxx"),
    ("the same by a variable", ("COPY file", "ENV N=1\nCOPY file"), "cccx"),
    ("network", ("RUN echo two", "RUN --network=none echo two"), "cccx"),
    ("exec form", ("RUN echo two > /two", 'RUN ["/bin/sh", "-c", "echo two > /two"]'), "cccc"),
    ("a heredoc", ("RUN echo two > /two", "RUN <<E\necho two > /two\nE"), "cccx"),
]


@pytest.mark.parametrize(("name", "change", "expected"), DOCKERFILE_CHANGES)
def test_one_change_of_the_dockerfile(
    shm_path: Path, name: str, change: tuple[str, str], expected: str
) -> None:
    """Each instruction, flag and variable counts exactly where it can change a result."""
    where = world(shm_path)
    assert build(where, FIRST).cached == "xxxx", name
    changed = FIRST.replace(*change)
    assert changed != FIRST
    assert build(where, changed).cached == expected, name


ARGUMENT_CHANGES = [
    ("no argument", {}, "cccc"),
    ("an argument that is declared", {"SEEN": "2"}, "xxxx"),
    ("the default, given", {"SEEN": "1"}, "cccc"),
    ("an argument that is not declared", {"UNSEEN": "2"}, "cccc"),
    ("a proxy", {"HTTP_PROXY": "http://proxy:1"}, "cccc"),
    ("another proxy", {"no_proxy": "example"}, "cccc"),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), ARGUMENT_CHANGES)
def test_one_change_of_the_arguments(
    shm_path: Path, name: str, arguments: dict[str, str], expected: str
) -> None:
    """A build argument counts if it is declared; proxies never do."""
    where = world(shm_path)
    build(where, FIRST)
    assert build(where, FIRST, build_args=arguments).cached == expected, name


SECRET = "RUN --mount=type=secret,id=s cat /run/secrets/s > /seen\n"
ONE_STEP_CHANGES = [
    ("the body of a RUN's heredoc", "RUN <<E\necho a\nE\n", "RUN <<E\necho b\nE\n", "x"),
    ("the body of a COPY's heredoc", "COPY <<E /f\na\nE\n", "COPY <<E /f\nb\nE\n", "x"),
    ("a secret's id", SECRET, SECRET.replace("id=s", "id=t,target=/run/secrets/s"), "x"),
    (
        "a secret's variable",
        SECRET,
        SECRET.replace("id=s", "id=s,env=S,target=/run/secrets/s"),
        "x",
    ),
]


@pytest.mark.parametrize(("name", "one", "other", "expected"), ONE_STEP_CHANGES)
def test_one_change_of_a_step(
    shm_path: Path, name: str, one: str, other: str, expected: str
) -> None:
    """What is within a step counts."""
    where = world(shm_path)
    run = RunOptions(secrets={"s": Secret(b"1"), "t": Secret(b"2")})
    build(where, BASE + one, run=run)
    assert build(where, BASE + one, run=run).cached == "c", name
    assert build(where, BASE + other, run=run).cached == expected, name


def test_a_secrets_value_is_no_input(shm_path: Path) -> None:
    """Another secret of the same id: a hit, as in BuildKit."""
    where = world(shm_path)
    for value, expected in [(b"1", "x"), (b"2", "c")]:
        run = RunOptions(secrets={"s": Secret(value)})
        assert build(where, BASE + SECRET, run=run).cached == expected


def test_the_target_of_a_link_counts(shm_path: Path) -> None:
    """A link that leads elsewhere is another context."""
    where = world(shm_path)
    for target, expected in [("one", "xxxx"), ("one", "cccc"), ("two", "cxxx")]:
        (where.context / "dir/link").unlink(missing_ok=True)
        (where.context / "dir/link").symlink_to(target)
        assert build(where, FIRST).cached == expected


def test_the_platform_counts_where_it_is_seen(shm_path: Path) -> None:
    """A RUN that sees the target's variant is executed for each; one for the same variant hits."""
    where = world(shm_path)
    text = BASE + "ARG TARGETVARIANT\nRUN echo $TARGETVARIANT > /variant\n"
    for variant, expected in [("", "x"), ("v2", "x"), ("v2", "c")]:
        platform = Platform("linux", "amd64", variant)
        assert build(where, text, platform=platform).cached == expected


def test_the_base_counts_by_its_layers(shm_path: Path) -> None:
    """A base with another layer is another base; one with other labels and another time is not."""
    where = world(shm_path)
    build(where, FIRST)
    image = add_busybox(where.double)
    relabelled = replace(image, config={**image.config, "Labels": {"x": "y"}})
    add_image(where.double, "base/busybox", relabelled)
    assert build(where, FIRST).cached == "cccc"
    seen = replace(image, config={**image.config, "Env": ["PATH=/bin", "NEW=1"]})
    add_image(where.double, "base/busybox", seen)
    assert build(where, FIRST).cached == "xxxx"
    add_busybox(where.double, "base/busybox", Layer.of(Node("more", content=b"x")))
    assert build(where, FIRST).cached == "xxxx"


def test_no_cache_executes_everything(shm_path: Path) -> None:
    """--no-cache executes every step, --no-cache-filter those of one stage."""
    where = world(shm_path)
    text = FIRST.replace(BASE, BASE.replace("\n", " AS only\n"))
    build(where, text)
    assert build(where, text, use_cache=False).cached == "xxxx"
    assert build(where, text, no_cache_filter=frozenset(["only"])).cached == "xxxx"
    assert build(where, text, no_cache_filter=frozenset(["other"])).cached == "cccc"


def test_results_age(shm_path: Path) -> None:
    """A result older than the time to live is not used."""
    where = world(shm_path)
    build(where, FIRST, now=5000)
    assert build(where, FIRST, cache_ttl=3601.0, now=8600).cached == "cccc"
    assert build(where, FIRST, cache_ttl=3599.0, now=8600).cached == "xxxx"
    assert build(where, FIRST, cache_ttl=3599.0, now=8600).cached == "cccc"


@pytest.mark.parametrize("kind", ["registry", "directory", "inline"])
def test_age_is_that_of_the_entry(shm_path: Path, kind: str) -> None:
    """An image of a time long ago (SOURCE_DATE_EPOCH) is no old result: age counts from when it was kept,
    by the clock, and anew when it was made anew. What an image of a fixed time holds has no age.
    """
    write, read = {
        "registry": (PLACE, PLACE),
        "directory": (kept := CachePlace(path=shm_path / "kept", everything=True), kept),
        "inline": (CachePlace(), CachePlace(Reference.parse(f"{HOST}/out:1"))),
    }[kind]
    one = world(shm_path / "one")
    old = {"created": 1_000_000, "created_is_fixed": True, "cache_ttl": 3600.0}
    build(one, FIRST, cache_to=(write,), now=1_700_000_000, **old)
    for number, (now, expected) in enumerate(
        [
            (1_700_003_600, "cccc"),
            (1_700_003_601, "cccc" if kind == "inline" else "xxxx"),
            (1_700_007_201, "cccc"),
        ]
    ):
        other = world(shm_path / f"other{number}", one.double)
        found = build(other, FIRST, cache_from=(read,), cache_to=(write,), now=now, **old)
        assert found.cached == expected


def test_an_inline_entry_of_an_image_with_its_own_time_ages(shm_path: Path) -> None:
    """Without SOURCE_DATE_EPOCH the image says when it was made."""
    one = world(shm_path / "one")
    image = CachePlace(Reference.parse(f"{HOST}/out:1"))
    build(one, FIRST, cache_to=(CachePlace(),), now=1000)
    for number, (now, expected) in enumerate([(4600, "cccc"), (4601, "xxxx")]):
        other = world(shm_path / f"other{number}", one.double)
        assert (
            build(other, FIRST, cache_from=(image,), now=now, cache_ttl=3600.0).cached == expected
        )


class LatePool(WorkerPool):
    """Workers that pack what a RUN made only when ``may`` is set."""

    def __init__(self, may: trio.Event) -> None:
        super().__init__(3)
        self._may = may
        self.asked = trio.Event()

    async def pack_upper(self, *given: Any, **more: Any) -> PackedLayer:
        """Wait, then pack."""
        self.asked.set()
        await self._may.wait()
        return await super().pack_upper(*given, **more)


class Until(Recorder):
    """A reporter that sets ``failed`` when a step has."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = trio.Event()

    def emit(self, event: Event) -> None:
        """Keep one event."""
        super().emit(event)
        if isinstance(event, StepFinished) and event.outcome is Outcome.FAILED:
            self.failed.set()


FAILING = FIRST.replace("echo two > /two", "exit 3")


def test_a_failed_build_is_resumed(shm_path: Path) -> None:
    """What a failing build had done is not done again, here or with its cache elsewhere: also the layer
    whose packing had not begun when the step failed.
    """
    where = world(shm_path / "one")

    async def main() -> None:
        recorder = Until()
        request = where.request(FAILING, "out:1", cache_to=(PLACE,))
        async with LatePool(recorder.failed) as workers:
            with pytest.raises(RunFailed, match="exit code 3"):
                await where.build(request, recorder=recorder, workers=workers)

    trio.run(main)
    other = world(shm_path / "other", where.double)
    assert build(where, FIRST).cached == "cccx"
    assert build(other, FIRST, cache_from=(PLACE,)).cached == "cccx"


def test_an_interrupted_build_does_not_wait_for_layers(shm_path: Path) -> None:
    """Who gives up while a failed build still packs is not kept."""
    where = world(shm_path)

    async def main() -> None:
        recorder = Until()
        async with LatePool(trio.Event()) as workers, trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(where.build, recorder=recorder, workers=workers), where.request(FAILING)
            )
            await recorder.failed.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not where.wrong()


TWO_STAGES = f"""\
FROM {HOST}/base/busybox AS make
COPY file /in
RUN cut -c1-3 /in > /out
FROM {HOST}/base/busybox
COPY --from=make /out /out
RUN cat /out > /copy
"""


def test_the_same_content_ends_a_rebuild(shm_path: Path) -> None:
    """A stage that is rebuilt to the same files ends the rebuild at the COPY that takes them."""
    where = world(shm_path)
    assert build(where, TWO_STAGES).cached == "xxxx"
    where.write({"file": "con and more"})
    again = build(where, TWO_STAGES)
    assert sorted(again.cached) == sorted("xxxc")


def test_another_machine_moves_no_layer(shm_path: Path) -> None:
    """With a registry cache, a second store and a second checkout: all hits, no layer is fetched or sent,
    and the manifest is the same to the byte.
    """
    one = world(shm_path / "one")
    first = build(one, FIRST, cache_to=(PLACE,), cache_from=(PLACE,))
    other = world(shm_path / "other", one.double)
    for path in other.context.rglob("*"):
        os.utime(path, (5, 5))
    before = len(one.double.log)
    second = build(other, FIRST, cache_from=(PLACE,), created=1_700_009_999)
    log = one.double.log[before:]
    assert second == Build("cccc", first.digest)
    assert not [item for item in log if item.method == "GET" and "/blobs/" in item.path][1:]
    assert not [item for item in log if item.method == "PATCH"]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_broken_cache_registry_is_only_slow(shm_path: Path, status: int) -> None:
    """Whatever the cache's registry answers, the image is built and pushed."""
    where = world(shm_path)
    where.double.faults.add(Rule(Respond(status), "*", "/team/cache/", times=None))
    built = build(where, FIRST, cache_from=(PLACE,), cache_to=(PLACE,))
    assert built.cached == "xxxx"


def test_a_lost_layer_is_made_again(shm_path: Path) -> None:
    """A cache that promises layers it no longer has costs a second attempt, not the build."""
    one = world(shm_path / "one")
    first = build(one, TWO_STAGES, cache_to=(PLACE,), cache_from=(PLACE,))
    other = world(shm_path / "other", one.double)
    other.write({"file": "changed"})
    one.double.faults.add(Rule(Respond(404), "GET", "/team/cache/blobs/", times=None))
    one.double.faults.add(Rule(Respond(202), "POST", "mount=", times=None))
    second = build(other, TWO_STAGES, cache_from=(PLACE,))
    assert second.digest != first.digest


def test_inline_cache(shm_path: Path) -> None:
    """An image that was pushed with an inline cache answers for its own layers."""
    one = world(shm_path / "one")
    first = build(one, FIRST, cache_to=(CachePlace(),))
    other = world(shm_path / "other", one.double)
    image = CachePlace(Reference.parse(f"{HOST}/out:1"))
    second = build(other, FIRST, cache_from=(image,), cache_to=(CachePlace(),))
    assert second == Build("cccc", first.digest)


def test_directory_cache(shm_path: Path) -> None:
    """A directory that CI keeps answers on a machine with nothing else."""
    place = CachePlace(path=shm_path / "kept", everything=True)
    one = world(shm_path / "one")
    first = build(one, FIRST, cache_to=(place,))
    other = world(shm_path / "other", one.double)
    assert build(other, FIRST, cache_from=(place,)) == Build("cccc", first.digest)
    blobs = sorted((shm_path / "kept/blobs/sha256").iterdir())
    blobs[0].write_bytes(b"damaged")
    third = world(shm_path / "third", one.double)
    third.double.faults.add(Rule(Respond(404), "HEAD", "/out/", times=None))
    assert build(third, FIRST, cache_from=(place,)).digest


def test_a_large_layer_of_a_stage_that_is_not_in_the_image(shm_path: Path) -> None:
    """It goes to the cache alone, and the next machine finds it there."""
    stage = f"FROM {HOST}/base/busybox AS made\nCOPY noise /noise\nFROM {HOST}/base/busybox\n"
    one = world(shm_path / "one")
    noise = {f"noise/{number}": os.urandom(1 << 20).hex() for number in range(3)}
    one.write(noise)
    assert build(one, f"{stage}COPY --from=made /noise/0 /\n", cache_to=(PLACE,)).cached == "xx"
    other = world(shm_path / "other", one.double)
    other.write(noise)
    found = build(other, f"{stage}COPY --from=made /noise/1 /\n", cache_from=(PLACE,))
    assert found.cached == "cx"
