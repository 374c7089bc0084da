"""COPYs that are packed and sent before it is their turn: early when they can be, right always."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from asyncbuild.build.request import BuildResult
from asyncbuild.report.events import LayerPacked, StepStarted
from asyncbuild.testing.exchanges import Asked
from support.builds import (
    HOST,
    GatedDouble,
    Recorder,
    World,
    add_busybox,
    layer_digests,
    requests_of,
)
from support.images import Layer, directory, symlink, text

FROM = f"FROM {HOST}/base/busybox\n"


def world(path: Path, *more: Layer, double: GatedDouble | None = None) -> World:
    """A world whose base has ``more`` layers on top of busybox."""
    made = World.below(path, double)
    add_busybox(made.double, "base/busybox", *more)
    made.write({"file": "content"})
    return made


def test_the_layer_arrives_before_the_base(shm_path: Path) -> None:
    """The base's layer is withheld until the COPY behind the RUN has been sent whole."""
    double = GatedDouble()
    where = world(shm_path, double=double)
    base = layer_digests(add_busybox(double))[0]

    def is_base(asked: Asked) -> bool:
        return asked.method == "GET" and asked.path.endswith(base)

    double.hold(is_base, lambda: bool(requests_of(double, "PUT")))

    async def build() -> BuildResult:
        with trio.fail_after(60):  # it ends there where nothing is sent ahead
            request = where.request(f"{FROM}RUN echo a > /made\nCOPY file /app/\n", "out:1")
            return await where.build(request)

    result = trio.run(build)
    assert set(where.entries(result, -1)) == {"app", "app/file"}
    assert set(where.entries(result, -2)) == {"made"}


TRIED = {
    "COPY file /app/": True,
    "COPY --link file /usr/": True,
    "COPY file /usr/lib/x/": False,
    "COPY file /srv/x/": True,
    "COPY file /opt/": True,
    "COPY file /home/x/": False,
    "RUN ls /srv || true\nCOPY file /srv/x/": False,
    "COPY --from=other /file /app/": True,
    "COPY --from=other /file /app/a\nCOPY --from=other /file /app/b": True,
    "COPY --from=other /file /app/a\nCOPY --from=other /file /app": False,
    "COPY --from=other /file /opt/a\nCOPY file /opt/b": True,
    "ADD file /app/": False,
    "RUN ls /app || true\nCOPY file /app/": False,
    "WORKDIR /app\nRUN true\nCOPY file .": False,
    "COPY file /app/first\nRUN true\nCOPY file /app/": False,
    "RUN <<E\nls /app || true\nE\nCOPY file /app/": False,
    "COPY --chown=someone file /app/": False,
}


@pytest.mark.parametrize(("lines", "tried"), TRIED.items())
def test_what_is_tried(shm_path: Path, lines: str, *, tried: bool) -> None:
    """Only what no step before names, no base is likely to have, and the root is not asked for."""
    users = Layer.of(text("etc/passwd", "someone:x:7:7::/:/bin/sh\n"))
    where, recorder = world(shm_path, users), Recorder()
    lines = f"FROM scratch AS other\nCOPY file /\n{FROM}RUN sleep 0.3\n{lines}\n"
    trio.run(lambda: where.build(where.request(lines, "out:1"), recorder=recorder))
    told = [item for item in recorder.events if isinstance(item, LayerPacked | StepStarted)]
    last = max(place for place, item in enumerate(told) if isinstance(item, StepStarted))
    own = told[last].step
    ahead = any(isinstance(item, LayerPacked) and item.step == own for item in told[:last])
    assert ahead is tried


@pytest.mark.parametrize("below", ["/app", "/opt"])
def test_files_of_a_stage_arrive_before_another_stage_is_done(shm_path: Path, below: str) -> None:
    """The base of the stage that comes first in the image is withheld until what comes behind it has been
    sent; each layer is sent once, so what was tried is what the step made.
    """
    double = GatedDouble()
    where = world(shm_path, Layer.of(directory("opt", 0o750, uid=3)), double=double)
    late = add_busybox(double, "base/late", Layer.of(text("late", "late\n"))).layers[1].digest

    def is_late(asked: Asked) -> bool:
        return asked.method == "GET" and asked.path.endswith(late)

    double.hold(is_late, lambda: len(requests_of(double, "PUT")) >= 2)
    lines = (
        f"FROM {HOST}/base/late AS late\nRUN cp late l\n{FROM.strip()} AS early\nRUN echo e > /e\n"
        f"{FROM}COPY --from=late /l {below}/l\nCOPY --from=early /e {below}/e\nCOPY file {below}/f\n"
    )

    async def build() -> BuildResult:
        with trio.fail_after(60):  # it ends there where nothing is sent ahead
            return await where.build(where.request(lines, "out:1"))

    result = trio.run(build)
    name = below[1:]
    for place, file in zip((-3, -2, -1), "lef", strict=True):
        assert set(where.entries(result, place)) == {name, f"{name}/{file}"}
    assert len(requests_of(double, "PUT")) == 3 + 1 + 1


def test_a_run_that_was_before(shm_path: Path) -> None:
    """A RUN that made the directory after all: its attributes are in the layer, and nothing else is sent."""
    where = world(shm_path)
    result = where.run(f"{FROM}RUN d=/ap; mkdir -m 700 $d''p\nCOPY file /app/\n", "out:1")
    found = where.entries(result, -1)
    assert set(found) == {"app", "app/file"}
    assert found["app"].mode == 0o700
    assert len(result.manifest.layers) == 3


def test_a_link_that_a_run_made(shm_path: Path) -> None:
    """Files go where the link of the RUN leads."""
    where = world(shm_path)
    result = where.run(
        f"{FROM}RUN d=/ap; mkdir /real; ln -s real $d''p\nCOPY file /app/\n", "out:1"
    )
    assert "real/file" in where.entries(result, -1)


def test_a_base_that_has_it(shm_path: Path) -> None:
    """A directory of the base keeps its attributes; a link is followed."""
    where = world(shm_path, Layer.of(directory("app", 0o700, uid=7, gid=8), symlink("b", "app")))
    result = where.run(f"{FROM}RUN true\nCOPY file /app/\nCOPY file /b/two\n", "out:1")
    app = where.entries(result, -2)["app"]
    assert (app.mode, app.uid, app.gid) == (0o700, 7, 8)
    assert "app/two" in where.entries(result, -1)


def test_a_run_that_fails(shm_path: Path) -> None:
    """The RUN's error is the build's, whatever was tried; no task and no work place is left."""
    where = world(shm_path)
    with pytest.raises(Exception, match="exit code 3"):
        where.run(f"{FROM}RUN exit 3\nCOPY file /app/\n", "out:1")
    assert where.wrong() == []


def test_a_file_that_is_missing(shm_path: Path) -> None:
    """It is told at its step, after the RUN before it."""
    where, recorder = world(shm_path), Recorder()
    request = where.request(f"{FROM}RUN echo ran\nCOPY missing /app/\n", "out:1")
    with pytest.raises(Exception, match="missing"):
        trio.run(lambda: where.build(request, recorder=recorder))
    assert "ran" in recorder.output()
