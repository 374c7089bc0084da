"""Turns of the matrix, taken with a real registry behind a real link by a small program that pushes an image."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from perf.bench import Stand, own_lane
from perf.matrix import Matrix
from perf.measure import Cell
from perf.plan import Part, Turn
from perf.tools import Build

pytestmark = pytest.mark.integration

#: Long enough for any machine; nothing waits as long unless it fails.
_NEVER = 1e6


@dataclass(slots=True)
class Pusher:
    """Pushes ``image`` (an OCI layout) once as many of its runs as ``together`` have begun; ends with 1 if they never
    do.
    """

    image: Path
    meeting: Path
    together: int
    name: str = "pusher"

    def version(self) -> str:
        """Nobody asks."""
        return "1"

    def identity(self) -> str:
        """Always the same."""
        return "1"

    def command(self, build: Build) -> list[str]:
        """Wait for the others, then push."""
        place = shlex.quote(str(self.meeting))
        meet = f"touch {place}/{build.context.name}; n=0; "
        meet += f'while [ "$(ls {place} | wc -l)" -lt {self.together} ]; do '
        meet += "n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done; "
        push = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{self.image}:it"]
        return ["/bin/sh", "-c", meet + shlex.join([*push, f"docker://{build.names[0]}"])]

    def running(self, build: Build, cell: Cell) -> contextlib.AbstractContextManager[None]:
        """Nothing."""
        del build, cell
        return contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class Place:
    """A bench without bases; its registries are empty."""

    root: Path

    def take(self, part: Part, together: int) -> Matrix:
        """A matrix that has taken ``part``, in a thread whose network is its own."""
        pusher = Pusher(self.root / "image", self.root / "meeting", together)

        def taken() -> Matrix:
            stand = own_lane(Stand(self.root / "scratch", self.root / "results", 0), "alone")
            matrix = Matrix(stand, {"pusher": pusher}, deadline=time.monotonic() + 3600, cores=2)
            matrix.take(part)
            return matrix

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(taken).result()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """With an image to push: an empty one, by umoci."""
    monkeypatch.setenv("PERF_CACHE", str(tmp_path / "cache"))
    for part in ("cache", "meeting", "scratch", "results/logs", "results/requests"):
        (tmp_path / part).mkdir(parents=True)
    subprocess.run(["umoci", "init", "--layout", tmp_path / "image"], check=True)
    subprocess.run(["umoci", "new", "--image", f"{tmp_path / 'image'}:it"], check=True)
    return Place(tmp_path)


def turn(job: str, *, cores: float = 0.01, wall: float = 1.0) -> Turn:
    """A cold one at 20 ms."""
    return Turn("pusher", job, 20, wall=wall, cores=cores)


def test_runs_that_wait_are_really_at_once_and_say_so(place: Place) -> None:
    """Neither would end without the other; each has its own registry, and the log of its own requests."""
    matrix = place.take(Part("waiting", (turn("J1"), turn("J8")), together=True), together=2)
    assert sorted((run.job, run.succeeded) for run in matrix.runs) == [("J1", True), ("J8", True)]
    assert all(run.beside > 0 and run.far_cpu > 0 for run in matrix.runs)
    for run in matrix.runs:
        log = (place.root / "results/requests" / run.log_name).read_text()
        paths = [json.loads(line).get("path", "") for line in log.splitlines()]
        assert any(f"built/{run.job.lower()}/manifests/" in path for path in paths)
        assert sum("manifests" in path for path in paths) == 1


def test_runs_that_would_be_in_each_others_way_are_not_at_once(place: Place) -> None:
    """Each ends by itself, and nothing was beside it."""
    part = Part("waiting", (turn("J1", cores=0.6), turn("J8", cores=0.6)), together=True)
    matrix = place.take(part, together=1)
    assert [(run.job, run.succeeded, run.beside) for run in matrix.runs] == [
        ("J1", True, 0.0),
        ("J8", True, 0.0),
    ]


@pytest.mark.parametrize("together", [False, True])
def test_what_would_end_too_late_is_left(place: Place, *, together: bool) -> None:
    """What still fits is taken, whatever its place in the order."""
    late = turn("J8", wall=_NEVER)
    matrix = place.take(Part("some", (late, turn("J1")), together=together), together=1)
    assert [run.job for run in matrix.runs] == ["J1"]
    assert matrix.left == [late]
