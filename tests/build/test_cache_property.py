"""Over random Dockerfiles, contexts and edits, a cached build makes the image that an uncached one makes."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.build.workers import WorkerPool
from asyncbuild.errors import AsyncbuildError
from support.builds import SCRATCH, World
from support.registry import remove_tree

NAMES = ("a", "b", "dir/c", "dir/d")
WORDS = st.sampled_from(["", "x", "y", "longer text"])
INSTRUCTIONS = st.sampled_from(
    [
        *(f"COPY {name} /{place}" for name in ("a", "b", "dir", "a dir") for place in ("p/", "q/")),
        "COPY b rel/",
        "COPY a /made-$V/",
        "COPY --chmod=600 a /p/",
        "COPY --chown=3:4 dir /p/",
        "COPY <<E /here\none $V\nE",
        "COPY <<E /here\ntwo ${V:-w}\nE",
        "COPY --from=PREVIOUS / /p/",
        "COPY --from=PREVIOUS /p /r",
        "COPY --link a /p/",
        "COPY --link --chown=3:4 dir rel/",
        "COPY --link --chmod=600 b /q/",
        "COPY --link --from=PREVIOUS /p /r",
        "ADD --link a /p/$V",
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
)
STAGES = st.lists(st.lists(INSTRUCTIONS, min_size=1, max_size=5), min_size=1, max_size=3)
INDEX = st.integers(0, 20)
EDITS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), WORDS),
    st.tuples(st.just("mode"), st.sampled_from(NAMES), st.sampled_from(["600", "755"])),
    st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("change"), INDEX, INSTRUCTIONS),
    st.tuples(st.just("add"), INDEX, INSTRUCTIONS),
    st.tuples(st.just("remove"), INDEX, st.just("")),
    st.tuples(st.just("swap"), INDEX, st.just("")),
    st.tuples(st.just("argument"), INDEX, st.sampled_from(["", "1", "9"])),
)


@dataclass(frozen=True, slots=True)
class Source:
    """What is built: instructions of each stage, files with their modes, the build argument V."""

    stages: tuple[tuple[str, ...], ...]
    files: dict[str, tuple[str, int]]
    argument: str = ""

    def edited(self, kind: str, where: str | int, what: str) -> Source:
        """This with one edit."""
        if isinstance(where, str):
            return replace(self, files=self._files(kind, where, what))
        if kind == "argument":
            return replace(self, argument=what)
        stage = where % len(self.stages)
        lines = list(self.stages[stage])
        index = where % max(1, len(lines))
        if kind == "swap":
            lines[index : index + 2] = reversed(lines[index : index + 2])
        else:
            lines[index : index + (kind != "add")] = [what] if what else []
        return replace(self, stages=(*self.stages[:stage], tuple(lines), *self.stages[stage + 1 :]))

    def _files(self, kind: str, name: str, what: str) -> dict[str, tuple[str, int]]:
        files = dict(self.files)
        text, mode = files.pop(name, ("", 0o644))
        if kind == "rename":
            return files | {what: (text, mode)}
        return files | {name: (what, mode) if kind == "write" else (text, int(what, 8))}

    def dockerfile(self) -> str:
        """The text; PREVIOUS is the stage before, and the last stage is built."""
        parts = []
        for number, lines in enumerate(self.stages):
            parts.append(f"FROM scratch AS s{number}")
            parts += [
                line.replace("PREVIOUS", f"s{number - 1}")
                for line in lines
                if number or "PREVIOUS" not in line
            ]
        return "\n".join([*parts, "COPY a /last", ""])

    def write(self, context: Path) -> None:
        """Make the context anew; times are no input of the cache, so they are all the same."""
        remove_tree(context)
        context.mkdir()
        for name, (text, mode) in self.files.items():
            path = context / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(mode)
        for path in (*context.rglob("*"), context):
            os.utime(path, (1, 1))


async def made(world: World, source: Source, workers: WorkerPool, *, cached: bool) -> object:
    """The configuration, with its DiffIds, or the kind of the failure."""
    request = world.request(
        source.dockerfile(),
        use_cache=cached,
        build_args={"V": source.argument} if source.argument else {},
        created_is_fixed=True,
        clamp_times=True,
    )
    try:
        return (await world.build(request, workers=workers)).config
    except AsyncbuildError as error:
        return type(error)


async def compare(directory: Path, versions: list[Source]) -> None:
    """Build each version after the others with a cache, and without."""
    world = World.below(directory)
    fresh = replace(world, store=directory / "fresh")
    async with WorkerPool(2) as workers:
        for source in versions:
            source.write(world.context)
            cached = await made(world, source, workers, cached=True)
            assert cached == await made(fresh, source, workers, cached=False), source.dockerfile()


@settings(max_examples=30, derandomize=True)
@given(stages=STAGES, edits=st.lists(EDITS, min_size=1, max_size=4))
def test_cached_is_as_uncached(stages: list[list[str]], edits: list[tuple[str, int, str]]) -> None:
    """Configuration by configuration and, for DiffIds name every byte of a layer, file by file."""
    files = {name: (name, 0o644) for name in NAMES}
    versions = [Source(tuple(map(tuple, stages)), files)]
    for edit in edits:
        versions.append(versions[-1].edited(*edit))
    directory = Path(tempfile.mkdtemp(prefix=SCRATCH.strip("/"), dir="/dev/shm"))
    try:
        trio.run(compare, directory, versions)
    finally:
        remove_tree(directory)
