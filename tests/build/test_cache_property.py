"""Over random Dockerfiles, contexts and edits, a cached build makes the image that an uncached one makes.

``ASYNCBUILD_CACHE_EXAMPLES=1000`` tries so many, other ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.build.request import CachePlace
from asyncbuild.build.workers import WorkerPool
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.reference import Reference
from support.builds import HOST, World, add_busybox
from support.registry import remove_tree
from support.scratch import scratch

MORE = int(os.environ.get("ASYNCBUILD_CACHE_EXAMPLES", "0"))
SCRATCH, BUSYBOX = "scratch", f"{HOST}/base/busybox"
PLACE = CachePlace(Reference.parse(f"{HOST}/cache/app:main"), everything=True)

NAMES = ("a", "b", "dir/c", "dir/d")
WORDS = st.sampled_from(["", "x", "y", "longer text"])
FILES = [
    *(f"COPY {name} /{place}" for name in ("a", "b", "dir", "a dir") for place in ("p/", "q/")),
    "COPY b rel/",
    "COPY a /made-$V/",
    "COPY a /p",
    "COPY dir /link/",
    "COPY --chmod=600 a /p/",
    "COPY --chown=3:4 dir /p/",
    "COPY --chown=3:4 dir /p/dir",
    "COPY --parents dir/c /p/",
    "COPY --parents dir/* /p/",
    "COPY --parents dir /p/",
    "COPY --exclude=c dir /p/",
    "COPY --link a /p/",
    "COPY --link --chown=3:4 dir rel/",
    "COPY --link --chmod=600 b /q/",
    "COPY --link --from=PREVIOUS /p /r",
    "ADD --link a /p/$V",
    "COPY --link --chown=5 dir /q",
    "ADD b /q/",
    "COPY <<E /here\none $V\nE",
    "COPY <<E /here\ntwo ${V:-w}\nE",
    "COPY --from=PREVIOUS / /p/",
    "COPY --from=PREVIOUS /p /r",
    "COPY --from=PREVIOUS --exclude=a /p /r",
    "ARG V",
    "ARG V=1",
    "ARG V=2",
    "ENV V=3",
    "ENV W=$V",
    "WORKDIR /p",
    "WORKDIR rel/$V",
    "USER 1:2",
    "USER 0",
    "LABEL l=$V",
    'CMD ["x"]',
]
COMMANDS = [
    "RUN echo $V-$W-$PWD > /seen",
    "RUN mkdir -p /p /q; echo more >> /p/log",
    "RUN echo here >> here || true",
    "RUN cat /p/a /q/b /r/a > /joined 2> /dev/null || true",
    "RUN rm -rf /p",
    "RUN mv /q /moved || true",
    "RUN mkdir /q && ln -s /q /link || true",
    "RUN chmod 700 /p && chown 7:8 /p || true",
    "RUN id -u > /tmp/id; stat -c '%u %a %n' /p/* > /tmp/stat 2> /dev/null || true",
    "RUN <<E\necho $V > /heredoc\nE",
    'RUN ["/bin/sh", "-c", "echo exec > /exec"]',
    "RUN --network=none ls / > /tmp/root",
    "RUN --mount=type=bind,source=dir,target=/m cat /m/c > /bound",
    "RUN --mount=type=bind,source=dir,target=/m,rw rm /m/c; ls /m > /bound",
    "RUN --mount=type=bind,from=PREVIOUS,target=/m ls -R /m/p /m/r > /listed 2> /dev/null || true",
    "RUN --mount=type=bind,from=PREVIOUS,source=p,target=/m cat /m/a > /bound",
    "RUN --mount=type=cache,target=/c cat /c/* > /dev/null; echo x >> /c/x; echo used > /used",
    "RUN --mount=type=cache,id=$V,target=/p/c touch /p/c/x; ls -d /p/c > /used",
    "RUN --mount=type=tmpfs,target=/p/t touch /p/t/x; ls /p > /held",
    'SHELL ["/bin/sh", "-ec"]',
    "HEALTHCHECK NONE",
    "VOLUME /p",
]
INDEX = st.integers(0, 20)


def stages(instructions: st.SearchStrategy[str], most: int) -> st.SearchStrategy[list[list[str]]]:
    """Up to three stages of these."""
    return st.lists(st.lists(instructions, min_size=1, max_size=most), min_size=1, max_size=3)


def edits(
    instructions: st.SearchStrategy[str], most: int
) -> st.SearchStrategy[list[tuple[str, Any, str]]]:
    """Changes of files, of instructions, of the build argument."""
    one = st.one_of(
        st.tuples(st.just("write"), st.sampled_from(NAMES), WORDS),
        st.tuples(st.just("mode"), st.sampled_from(NAMES), st.sampled_from(["600", "755"])),
        st.tuples(st.just("link"), st.sampled_from(NAMES), st.sampled_from(["a", "nowhere"])),
        st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
        st.tuples(st.just("change"), INDEX, instructions),
        st.tuples(st.just("add"), INDEX, instructions),
        st.tuples(st.just("remove"), INDEX, st.just("")),
        st.tuples(st.just("swap"), INDEX, st.just("")),
        st.tuples(st.just("argument"), INDEX, st.sampled_from(["", "1", "9"])),
        st.tuples(st.just("base"), INDEX, st.sampled_from(["", "PREVIOUS"])),
    )
    return st.lists(one, min_size=1, max_size=most)


@dataclass(frozen=True, slots=True)
class File:
    """A file of the context, or a link."""

    text: str
    mode: int = 0o644
    target: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """What is built: instructions of each stage and what it is FROM (other than ``base``), files, the build
    argument V.
    """

    base: str
    stages: tuple[tuple[str, ...], ...]
    files: dict[str, File]
    argument: str = ""
    on_previous: frozenset[int] = frozenset()

    def edited(self, kind: str, where: str | int, what: str) -> Source:
        """This with one edit."""
        if isinstance(where, str):
            return replace(self, files=self._files(kind, where, what))
        if kind == "argument":
            return replace(self, argument=what)
        stage = where % len(self.stages)
        if kind == "base":
            return replace(self, on_previous=self.on_previous ^ {stage})
        lines = list(self.stages[stage])
        index = where % max(1, len(lines))
        if kind == "swap":
            lines[index : index + 2] = reversed(lines[index : index + 2])
        else:
            lines[index : index + (kind != "add")] = [what] if what else []
        return replace(self, stages=(*self.stages[:stage], tuple(lines), *self.stages[stage + 1 :]))

    def _files(self, kind: str, name: str, what: str) -> dict[str, File]:
        files = dict(self.files)
        old = files.pop(name, File(""))
        match kind:
            case "rename":
                return files | {what: old}
            case "write":
                return files | {name: replace(old, text=what, target="")}
            case "link":
                return files | {name: replace(old, target=what)}
            case _:
                return files | {name: replace(old, mode=int(what, 8))}

    def dockerfile(self) -> str:
        """The text; PREVIOUS is the stage before, and the last stage is built."""
        parts = []
        for number, lines in enumerate(self.stages):
            previous = f"s{number - 1}"
            upon = previous if number and number in self.on_previous else self.base
            parts.append(f"FROM {upon} AS s{number}")
            parts += [
                line.replace("PREVIOUS", previous)
                for line in lines
                if number or "PREVIOUS" not in line
            ]
        return "\n".join([*parts, "USER 0", "COPY a /last", ""])

    def write(self, context: Path) -> None:
        """Make the context anew; times are no input of the cache, so they are all the same."""
        remove_tree(context)
        context.mkdir()
        for name, file in self.files.items():
            path = context / name
            path.parent.mkdir(exist_ok=True)
            if file.target:
                path.symlink_to(file.target)
                continue
            path.write_text(file.text)
            path.chmod(file.mode)
        for path in (*context.rglob("*"), context):
            os.utime(path, (1, 1), follow_symlinks=False)


async def made(world: World, source: Source, workers: WorkerPool, **more: Any) -> object:
    """The configuration, with its DiffIds, or the kind of the failure."""
    request = world.request(
        source.dockerfile(),
        build_args={"V": source.argument} if source.argument else {},
        created_is_fixed=True,
        clamp_times=True,
        **more,
    )
    try:
        return (await world.build(request, workers=workers)).config
    except AsyncbuildError as error:
        return type(error)


Builds = Callable[[World, int], tuple[World, dict[str, Any]]]
"""Where, and how, the version of a number is built with a cache."""


def on_one_machine(world: World, _number: int) -> tuple[World, dict[str, Any]]:
    """The store remembers everything."""
    return world, {}


def on_two_machines(world: World, number: int) -> tuple[World, dict[str, Any]]:
    """Two stores in turns, and one cache in a registry."""
    store = world.store.with_name(f"machine{number % 2}")
    return replace(world, store=store), {"cache_from": (PLACE,), "cache_to": (PLACE,)}


def on_new_machines(world: World, number: int) -> tuple[World, dict[str, Any]]:
    """A new store each time, and one cache in a directory."""
    place = CachePlace(path=world.store.with_name("kept"), everything=True)
    store = world.store.with_name(f"machine{number}")
    return replace(world, store=store), {"cache_from": (place,), "cache_to": (place,)}


async def compare(directory: Path, versions: list[Source], builds: Builds) -> None:
    """Build each version after the others with a cache, and without."""
    world = World.below(directory)
    add_busybox(world.double)
    fresh = replace(world, store=directory / "fresh")
    async with WorkerPool(2) as workers:
        for number, source in enumerate(versions):
            source.write(world.context)
            place, how = builds(world, number)
            cached = await made(place, source, workers, **how)
            uncached = await made(fresh, source, workers, use_cache=False)
            assert cached == uncached, "\n\n".join(
                item.dockerfile() for item in versions[: number + 1]
            )


def check(
    base: str, stages: list[list[str]], edits: list[tuple[str, Any, str]], builds: Builds
) -> None:
    """Build a Dockerfile and what edits make of it."""
    versions = [Source(base, tuple(map(tuple, stages)), {name: File(name) for name in NAMES})]
    for edit in edits:
        versions.append(versions[-1].edited(*edit))
    with scratch() as directory:
        trio.run(compare, directory, versions, builds)


def examples(few: int) -> settings:
    """So many, always the same; or as many as one wishes."""
    return settings(max_examples=MORE or few, derandomize=not MORE)


COPIES = st.sampled_from(FILES)
ANYTHING = st.one_of(st.sampled_from(COMMANDS), COPIES)


@examples(25)
@given(stages=stages(COPIES, 5), edits=edits(COPIES, 4))
def test_cached_is_as_uncached(stages: list[list[str]], edits: list[tuple[str, Any, str]]) -> None:
    """Configuration by configuration and, for DiffIds name every byte of a layer, file by file."""
    check(SCRATCH, stages, edits, on_one_machine)


@examples(6)
@given(stages=stages(ANYTHING, 4), edits=edits(ANYTHING, 3))
def test_with_commands(stages: list[list[str]], edits: list[tuple[str, Any, str]]) -> None:
    """RUNs, with what they mount, and files from and to them."""
    check(BUSYBOX, stages, edits, on_one_machine)


@examples(10)
@given(stages=stages(COPIES, 5), edits=edits(COPIES, 4))
def test_with_a_cache_in_a_registry(
    stages: list[list[str]], edits: list[tuple[str, Any, str]]
) -> None:
    """Two machines that know of each other by a registry only."""
    check(SCRATCH, stages, edits, on_two_machines)


@examples(4)
@given(stages=stages(ANYTHING, 4), edits=edits(ANYTHING, 3))
def test_commands_with_a_cache_in_a_registry(
    stages: list[list[str]], edits: list[tuple[str, Any, str]]
) -> None:
    """The same with RUNs."""
    check(BUSYBOX, stages, edits, on_two_machines)


@examples(6)
@given(stages=stages(COPIES, 5), edits=edits(COPIES, 4))
def test_with_a_cache_in_a_directory(
    stages: list[list[str]], edits: list[tuple[str, Any, str]]
) -> None:
    """Machines that have nothing but a directory that CI keeps."""
    check(SCRATCH, stages, edits, on_new_machines)
