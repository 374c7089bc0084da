"""The cache of a build: what hits, what misses, and that a hit is never wrong."""

from __future__ import annotations

import json
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
from asyncbuild.cache.registry import RESULT
from asyncbuild.errors import RunFailed
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.layers.compression import UNCOMPRESSED
from asyncbuild.layers.pack import PackedLayer
from asyncbuild.report.events import Event, Outcome, StepFinished, WarningRaised
from asyncbuild.testing.faults import Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, GatedDouble, Recorder, World, add_busybox, add_image
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
    kinds = ("RUN", "COPY", "ADD", "WORKDIR")
    files = [item for item in finished if item.step.text.split()[0] in kinds]
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


def own(where: World) -> None:
    """Another owner for a file: in an image it is root's all the same."""
    os.chown(where.context / "file", 12, 34)


def empty(where: World) -> None:
    """An empty directory more."""
    (where.context / "dir/empty").mkdir()


def ignore(where: World) -> None:
    """A file of a directory that is copied is ignored from now on."""
    where.write({".dockerignore": "ignored*\ndir/inside\n"})


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
    ("owner", own, "cccc"),
    ("an empty directory", empty, "cxxx"),
    ("a file that is ignored now", ignore, "cxxx"),
    ("other words of the ignore file", rewrite(".dockerignore", "ignored*\nnothing\n"), "cccc"),
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
    ("ENTRYPOINT", ("LABEL a=1", 'ENTRYPOINT ["x"]'), "cccc"),
    ("HEALTHCHECK", ("LABEL a=1", "HEALTHCHECK CMD true"), "cccc"),
    ("STOPSIGNAL", ("LABEL a=1", "STOPSIGNAL 9"), "cccc"),
    ("MAINTAINER", ("LABEL a=1", "MAINTAINER me"), "cccc"),
    ("ONBUILD", ("LABEL a=1", "ONBUILD RUN true"), "cccc"),
    ("the user of WORKDIR", ("WORKDIR /work", "USER 1\nWORKDIR /work\nUSER 0"), "ccxx"),
    ("ADD", ("COPY file", "ADD file"), "cxxx"),
    ("--link", ("COPY file", "COPY --link file"), "cxxx"),
    ("--parents", ("COPY file", "COPY --parents file"), "cxxx"),
    ("--exclude", ("COPY file", "COPY --exclude=inside file"), "cxxx"),
    ("--unpack", ("COPY file", "ADD --unpack file"), "cxxx"),
    ("--mount", ("RUN echo two", "RUN --mount=type=tmpfs,target=/t echo two"), "cccx"),
    ("a mount of the context", ("RUN echo two", "RUN --mount=target=/m echo two"), "cccx"),
    ("the same base by its tag", (BASE, BASE.replace("busybox", "busybox:latest")), "cccc"),
    (
        "the same base for a platform",
        (BASE, BASE.replace("FROM", "FROM --platform=linux/amd64")),
        "cccc",
    ),
    ("a name of the stage", (BASE, BASE.replace("\n", " AS named\n")), "cccc"),
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


OPTION_CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("a label", {"labels": {"a": "b"}}, "cccc"),
    ("an annotation", {"annotations": {"a": "b"}}, "cccc"),
    ("the time of the image", {"created": 5, "created_is_fixed": True}, "cccc"),
    ("compression", {"compression": UNCOMPRESSED}, "cccc"),
    ("docker's types", {"docker_media_types": True}, "cccc"),
    ("a host", {"add_hosts": (("h", "10.0.0.1"),)}, "xxxx"),
    ("the network", {"network": "none"}, "xxxx"),
    ("the size of /dev/shm", {"run": RunOptions(shm_size=1 << 20)}, "xxxx"),
    ("a secret that no step wants", {"run": RunOptions(secrets={"s": Secret(b"1")})}, "cccc"),
    ("clamped times", {"clamp_times": True}, "xxxx"),
    ("an ignored path", {"ignored_paths": ("/one",)}, "xxxx"),
    ("another way to say none", {"ignored_paths": ("",)}, "cccc"),
]


@pytest.mark.parametrize(("name", "options", "expected"), OPTION_CHANGES)
def test_one_change_of_the_options(
    shm_path: Path, name: str, options: dict[str, Any], expected: str
) -> None:
    """Options count if they can change what is in a layer."""
    where = world(shm_path)
    build(where, FIRST)
    assert build(where, FIRST, **options).cached == expected, name


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


THREE_STAGES = f"""\
FROM {HOST}/base/busybox AS make
COPY file /in
RUN cut -c1-3 /in > /out
FROM {HOST}/base/busybox AS last
COPY --from=make /out /out
WORKDIR /w
FROM last
COPY --link other /linked
RUN cat /out > /copy
"""


def test_a_stage_of_the_same_content_ends_a_rebuild(shm_path: Path) -> None:
    """What is FROM a stage that is rebuilt to the same files is not built again: here, and elsewhere."""
    where = world(shm_path / "one")
    first = build(where, THREE_STAGES, cache_to=(PLACE,))
    assert first.cached == "xxxxxx"
    other = world(shm_path / "other", where.double)
    for machine in (where, other):
        machine.write({"file": "con and more"})
        again = build(machine, THREE_STAGES, cache_from=(PLACE,))
        assert again.cached.count("c") == 3, again  # WORKDIR, and all of the last stage
        assert again.digest == first.digest
    where.write({"file": "other"})
    changed = build(where, THREE_STAGES, cache_from=(PLACE,))
    assert sorted(changed.cached) == list("cxxxxx")  # the linked layer looks at nothing below it
    assert changed.digest != first.digest


def test_the_same_content_ends_a_rebuild_elsewhere(shm_path: Path) -> None:
    """On a machine that has only a registry's cache; a stage of which nothing is needed does not begin."""
    one = world(shm_path / "one")
    first = build(one, TWO_STAGES, cache_to=(PLACE,))
    other = world(shm_path / "other", one.double)
    assert build(other, TWO_STAGES, cache_from=(PLACE,)) == Build("cc", first.digest)
    third = world(shm_path / "third", one.double)
    third.write({"file": "con and more"})
    again = build(third, TWO_STAGES, cache_from=(PLACE,))
    assert sorted(again.cached) == sorted("xxxc")


def test_a_cached_image_is_as_one_from_scratch(shm_path: Path) -> None:
    """To the byte, with SOURCE_DATE_EPOCH, where RUN leaves nothing with the time of the clock."""
    text = FIRST.replace("echo one > /one", "echo one > /one && touch -d @1 /one")
    text = text.replace("echo two > /two", "rm /one")
    fixed = {"created": 1_600_000_000, "created_is_fixed": True}
    one = world(shm_path / "one")
    first = build(one, text, cache_to=(PLACE,), **fixed)
    assert first.cached == "xxxx"
    files = {path.relative_to(one.context): path.stat() for path in one.context.rglob("*")}
    for name, cached in (("cached", "cccc"), ("scratch", "xxxx")):
        other = world(shm_path / name, one.double)
        for path, status in files.items():  # times of a context are in layers, and in no key
            os.utime(other.context / path, ns=(0, status.st_mtime_ns))
        sources = (PLACE,) if name == "cached" else ()
        assert build(other, text, cache_from=sources, **fixed) == Build(cached, first.digest)


def test_rewritten_times_make_every_build_equal(shm_path: Path) -> None:
    """To the byte, whatever the clock when RUN wrote and the times of the context's files."""
    fixed = {"created": 1_600_000_000, "created_is_fixed": True, "clamp_times": True}
    one = world(shm_path / "one")
    first = build(one, FIRST, cache_to=(PLACE,), **fixed)
    assert first.cached == "xxxx"
    for name, cached in (("cached", "cccc"), ("scratch", "xxxx")):
        other = world(shm_path / name, one.double)
        sources = (PLACE,) if name == "cached" else ()
        assert build(other, FIRST, cache_from=sources, **fixed) == Build(cached, first.digest)


SHOWN = f"""\
FROM {HOST}/base/busybox AS make
COPY file /in
RUN mkdir /out && cut -c1-3 /in > /out/f && ln -s f /out/l
FROM {HOST}/base/busybox
RUN --mount=from=make,source=/out,target=/m --mount=from=make,source=/out/f,target=/n cat /m/l > /copy
RUN echo behind > /behind
"""


def test_a_bind_of_the_same_content_ends_a_rebuild(shm_path: Path) -> None:
    """A RUN counts by what another stage shows it: here, and on a machine that has only a registry."""
    where = world(shm_path / "one")
    more = {"cache_to": (PLACE,), "cache_from": (PLACE,)}
    first = build(where, SHOWN, **more)
    assert first.cached == "xxxx"
    other = world(shm_path / "other", where.double)
    for machine in (where, other):
        machine.write({"file": "con and more"})
        again = build(machine, SHOWN, cache_from=(PLACE,))
        assert (sorted(again.cached), again.digest) == (sorted("xxcc"), first.digest)
    where.write({"file": "other"})
    changed = build(where, SHOWN)
    assert changed.cached == "xxxx"
    assert changed.digest != first.digest


def test_a_step_does_not_wait_for_keys(shm_path: Path) -> None:
    """Without a cache to ask, a RUN is executed while a later step's key waits for an image."""
    double = GatedDouble()
    add_busybox(double)
    add_busybox(double, "base/other")
    where = world(shm_path, double)

    class Telling(Recorder):
        """Wakes the registry when a RUN prints something."""

        def emit(self, event: Event) -> None:
            """Keep one event."""
            super().emit(event)
            double.wake()

    recorder = Telling()
    double.hold(lambda asked: "/base/other/" in asked.path, lambda: recorder.output() == "hello\n")
    text = f"{BASE}RUN echo hello\nCOPY --from={HOST}/base/other /bin/sh /copied\n"
    request = where.request(text, "out:1")

    async def main() -> None:
        with trio.fail_after(60):  # else it waits for itself for ever
            await where.build(request, recorder=recorder)

    trio.run(main)


def test_a_bind_counts_by_its_names_and_modes(shm_path: Path) -> None:
    """Everything that a command can notice, but for times; a bind of a whole stage by what made that."""
    where = world(shm_path)
    build(where, SHOWN)
    for change in (
        ("ln -s f /out/l", "ln -s f /out/l; chmod 600 /out/f"),
        ("ln -s f /out/l", "ln -s /n /out/l"),
        ("ln -s f /out/l", "ln -s f /out/l; touch /out/new"),
    ):
        assert build(where, SHOWN.replace(*change)).cached.count("c") == 1, change
    same = ("ln -s f /out/l", "ln -s f /out/l; touch -d @1 /out/f")
    assert build(where, SHOWN.replace(*same)).cached.count("c") == 3
    whole = SHOWN.replace("source=/out,target=/m", "target=/m").replace("/m/l", "/m/out/l")
    build(where, whole)
    where.write({"file": "con and more"})
    assert build(where, whole).cached == "xxxx"


@pytest.mark.parametrize(
    ("kinds", "expected", "entries"),
    [(("RUN", "WORKDIR"), "ccxx", 3), (("COPY", "ADD"), "ccxx", 1)],
)
def test_only_some_instructions(
    shm_path: Path, kinds: tuple[str, ...], expected: str, entries: int
) -> None:
    """The switches of kaniko: what is not among them has no entry, and is executed unless a hit brings it."""
    one = world(shm_path / "one")
    only = {"cached_instructions": frozenset(kinds)}
    build(one, FIRST, cache_to=(PLACE,), **only)
    tags = [tag for tag in one.double.tags["team/cache"] if tag.startswith("k-")]
    assert len(tags) == entries
    other = world(shm_path / "other", one.double)
    text = FIRST.replace("WORKDIR /work\nRUN echo two", "WORKDIR /works\nRUN echo 2")
    found = build(other, text, cache_from=(PLACE,), **only)
    assert found.cached == ("cxxx" if "RUN" in kinds else expected)


def test_misses_in_the_middle_do_not_end_the_search(shm_path: Path) -> None:
    """An entry that is gone does not matter to those behind it, which bring its layer with them."""
    one = world(shm_path / "one")
    first = build(one, FIRST, cache_to=(PLACE,))
    double = one.double
    tags = {
        json.loads(double.manifest("team/cache", tag).raw)["annotations"][RESULT]: tag
        for tag in double.tags["team/cache"]
        if tag.startswith("k-")
    }
    (copy,) = [tag for result, tag in tags.items() if "COPY file dir" in result]
    del double.tags["team/cache"][copy]
    del double.tags["team/cache"]["main"]
    other = world(shm_path / "other", double)
    assert build(other, FIRST, cache_from=(PLACE,)) == Build("cccc", first.digest)


def test_only_the_layers_of_the_image(shm_path: Path) -> None:
    """mode=min exports no result of a stage that is not in the image; mode=max does."""
    for mode, entries in (("min", 2), ("max", 4)):
        one = world(shm_path / mode)
        build(one, TWO_STAGES, cache_to=(replace(PLACE, everything=mode == "max"),))
        tags = [tag for tag in one.double.tags["team/cache"] if tag.startswith("k-")]
        results = {one.double.manifest("team/cache", tag).annotations[RESULT] for tag in tags}
        assert len(results) == entries


def test_scopes_fall_back(shm_path: Path) -> None:
    """A branch reads what the main one has, and writes to its own index alone; all in the first wave."""
    one = world(shm_path / "one")
    build(one, FIRST, cache_to=(PLACE,))
    main = one.double.manifest("team/cache", "main").raw
    scope = replace(PLACE, reference=Reference.parse(f"{HOST}/team/cache:topic"))
    other = world(shm_path / "other", one.double)
    before = len(one.double.log)
    text = FIRST.replace("echo two", "echo 2")
    branch = replace(scope, fallbacks=("main", "master"))
    assert build(other, text, cache_from=(branch,), cache_to=(branch,)).cached == "cccx"
    asked = [item.path.rpartition("/") for item in one.double.log[before:]]
    tags = [tag for start, _, tag in asked if start == "/v2/team/cache/manifests" and tag[1] != "-"]
    assert set(tags[:3]) == {"topic", "main", "master"}
    assert one.double.manifest("team/cache", "main").raw == main
    third = world(shm_path / "third", one.double)
    assert build(third, text, cache_from=(scope,)).cached == "cccc"


@pytest.mark.parametrize(
    "quirks", [{"immutable": (400, "tag is immutable")}, {"mount_refusal": 405}]
)
def test_registries_that_cannot_do_all(shm_path: Path, quirks: dict[str, Any]) -> None:
    """Tags that cannot be moved, blobs that are not mounted: later results are found all the same."""
    one = world(shm_path / "one")
    one.double.quirks = replace(one.double.quirks, **quirks)
    for number, text in enumerate((FIRST, FIRST.replace("echo two", "echo 2"))):
        machine = world(shm_path / f"m{number}", one.double)
        out = {"destinations": (Reference.parse(f"{HOST}/out:{number}"),)}
        build(machine, text, cache_to=(PLACE,), cache_from=(PLACE,), **out)
        other = world(shm_path / f"o{number}", one.double)
        out = {"destinations": (Reference.parse(f"{HOST}/copy:{number}"),)}
        assert build(other, text, cache_from=(PLACE,), **out).cached == "cccc"


def test_entries_are_written_while_the_build_runs(shm_path: Path) -> None:
    """The last step's layer is not taken before the entries of all earlier steps are in the registry."""
    double = GatedDouble()
    add_busybox(double)
    where = world(shm_path, double)

    def written() -> int:
        done = [item for item in double.log if item.method == "PUT" and item.status == 201]
        return sum("/team/cache/manifests/k-" in item.path for item in done)

    double.hold(
        lambda asked: asked.method == "PUT" and "/v2/out/manifests/" in asked.path,
        lambda: written() == 4,
    )
    assert build(where, FIRST, cache_to=(PLACE,)).cached == "xxxx"


def test_a_cache_that_does_not_answer_is_given_up(shm_path: Path) -> None:
    """The image is pushed; the build waits as long as it was told to, and says what it gave up."""
    double = GatedDouble()
    add_busybox(double)
    where = world(shm_path, double)
    double.hold(lambda asked: asked.method == "PUT" and "/team/cache/" in asked.path, lambda: False)
    recorder = Recorder()
    request = where.request(FIRST, "out:1", cache_to=(PLACE,), cache_patience=0.5)
    digest = trio.run(partial(where.build, recorder=recorder), request).manifest.digest
    assert str(double.manifest("out", "1").digest) == str(digest)
    texts = [event.text for event in recorder.of(WarningRaised)]
    assert [text for text in texts if "took longer than" in text and "given up" in text]
    assert where.request(FIRST).cache_patience == 60.0, "the limit that the documentation states"


@pytest.mark.parametrize("kind", ["registry", "directory"])
def test_builds_at_once_do_not_lose_each_others_results(shm_path: Path, kind: str) -> None:
    """Three machines export to one scope, or to one directory, at the same time; a fourth finds it all."""
    place = PLACE if kind == "registry" else CachePlace(path=shm_path / "kept", everything=True)
    first = world(shm_path / "first")
    texts = [FIRST.replace("echo one", f"echo {number}") for number in range(3)]
    machines = [world(shm_path / f"m{number}", first.double) for number in range(3)]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number, (machine, text) in enumerate(zip(machines, texts, strict=True)):
                request = machine.request(text, f"out:{number}", cache_to=(place,))
                nursery.start_soon(machine.build, request)

    trio.run(main)
    for number, text in enumerate(texts):
        other = world(shm_path / f"other{number}", first.double)
        assert build(other, text, cache_from=(place,)).cached == "cccc"


def test_builds_at_once_in_one_store(shm_path: Path) -> None:
    """Three builds in one store, of three contexts, at the same time: each finds its own results again."""
    first = world(shm_path / "first")
    texts = [FIRST.replace("echo one", f"echo {number}") for number in range(3)]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number, text in enumerate(texts):
                nursery.start_soon(first.build, first.request(text, f"out:{number}"))

    trio.run(main)
    assert first.wrong() == []
    assert [build(first, text).cached for text in texts] == ["cccc"] * 3


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
    recorder = Recorder()
    request = where.request(FIRST, "out:1", cache_from=(PLACE,), cache_to=(PLACE,))
    done = trio.run(partial(where.build, recorder=recorder), request)
    assert done.statistics.steps_cached == 0
    texts = [event.text for event in recorder.of(WarningRaised)]
    assert any("the cache could not be exported" in text for text in texts)


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


@pytest.mark.parametrize("commands", [("true", "true"), ("mkdir /d", "rm -r /d", "mkdir /d")])
def test_equal_layers_below_a_command(shm_path: Path, commands: tuple[str, ...]) -> None:
    """Steps whose layers are the same bytes are one directory of the store, and no obstacle to a RUN."""
    text = BASE.replace("\n", " AS made\n") + "".join(f"RUN {command}\n" for command in commands)
    fixed = {"created": 1_000_000, "created_is_fixed": True, "clamp_times": True}
    one = world(shm_path / "one")
    build(one, text, cache_to=(PLACE,), **fixed)
    other = world(shm_path / "other", one.double)
    shown = "RUN --mount=from=made,target=/m ls -d /d /m/d > /seen 2> /dev/null || true\n"
    more = f"{text}FROM made\n{shown}"
    found = build(other, more, cache_from=(PLACE,), **fixed)
    assert found.cached == len(commands) * "c" + "x"
    assert build(one, more, use_cache=False, **fixed).digest == found.digest


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
