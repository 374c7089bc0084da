"""Causes in a trace, and the critical path that follows them: with a clock that the test drives, and of a build."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing
from perf.critical_path import Part, critical_path, joined, read_path, read_tasks, render

from asyncbuild.build.futures import Future, Ledger
from asyncbuild.report.causes import TaskTrace
from asyncbuild.report.trace import TraceRecorder, process_start
from support.builds import HOST, World, add_busybox

ROOT = Path(__file__).resolve().parents[2]


def path_of(main: Callable[[], Awaitable[None]]) -> list[tuple[float, float, str, str]]:
    """The critical path of ``main``, whose time passes only in its sleeps: start, end, task, what."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    start = clock.current_time()
    tasks = TaskTrace(clock.current_time, start)
    trio.run(main, clock=clock, instruments=[tasks])
    events = [
        {"cat": span.category, "name": span.name, "ts": span.start * 1e6,
         "dur": (span.end - span.start) * 1e6, "args": dict(span.args)}
        for span in tasks.spans()
    ]  # fmt: skip
    parts = joined(critical_path(read_tasks(events)))
    whole = [part for part in parts if part.seconds > 1e-6]
    return [(round(p.start, 3), round(p.end, 3), p.task, p.what) for p in whole]


async def _sleep(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def _after(first: Future[float], seconds: float) -> float:
    await first.wait()
    return await _sleep(seconds)


def test_the_path_goes_through_the_futures_that_were_waited_for() -> None:
    """Two chains: what is in the shorter one is not on the path, nor what was ready before it was asked for."""

    async def main() -> None:
        ledger = Ledger()
        async with trio.open_nursery() as nursery:
            early = ledger.spawn(nursery, "early work", _sleep, 1.0)
            long = ledger.spawn(nursery, "long work", _sleep, 3.0)
            after = ledger.spawn(nursery, "work after it", _after, long, 2.0)
            short = ledger.spawn(nursery, "short chain", _after, early, 1.0)
            await early.wait()
            await short.wait()
            await after.wait()
        await trio.sleep(1)

    found = path_of(main)
    assert [(start, end, task) for start, end, task, _ in found] == [
        (0, 3, "long work"),
        (3, 5, "work after it"),
        (5, 6, "main"),
    ]
    assert all("(clock)" in what for *_, what in found)


def test_the_path_goes_to_who_began_a_task() -> None:
    """A task that was begun late is on the path from its beginning; before that, who began it."""

    async def late(nursery: trio.Nursery) -> None:
        await trio.sleep(2)
        nursery.start_soon(trio.sleep, 4, name="begun late")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late, nursery, name="who begins it")
            nursery.start_soon(trio.sleep, 5, name="other")

    found = path_of(main)
    assert [(start, end, task) for start, end, task, _ in found] == [
        (0, 2, "who begins it"),
        (2, 6, "begun late"),
    ]


def test_who_releases_a_lock_is_the_cause() -> None:
    """A wait for a lock leads to its holder."""

    async def hold(lock: trio.Lock, seconds: float) -> None:
        async with lock:
            await trio.sleep(seconds)

    async def main() -> None:
        lock = trio.Lock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, lock, 3, name="first")
            await trio.sleep(1)
            nursery.start_soon(hold, lock, 2, name="second")

    assert [(start, end, task) for start, end, task, _ in path_of(main)] == [
        (0, 3, "first"),
        (3, 5, "second"),
    ]


@pytest.fixture
def trace(shm_path: Path) -> Path:
    """The trace of a real build: a RUN of half a second upon a base, and a COPY of what it wrote."""
    world = World.below(shm_path)
    add_busybox(world.double)
    text = (
        f"FROM {HOST}/base/busybox AS made\nRUN sleep 0.5 && echo 1 > /1\n"
        f"FROM {HOST}/base/busybox\nCOPY --from=made /1 /1\n"
    )
    start = process_start()
    tasks = TaskTrace(time.monotonic, start)
    recorder = TraceRecorder(time.monotonic, start=start, tasks=tasks)
    request = world.request(text, "app:1")

    async def main() -> None:
        await world.build(request, recorder=recorder)  # type: ignore[arg-type]

    trio.run(main, instruments=[tasks])
    recorder.write(shm_path / "trace.json")
    return shm_path / "trace.json"


def test_the_path_of_a_build_has_no_gap(trace: Path) -> None:
    """From its first moment to its last, through the talk with the sandbox that the RUN is in."""
    parts = read_path(trace)
    for before, after in pairwise(parts):
        assert before.end == pytest.approx(after.start, abs=1e-5)
    assert any(part.task == "converse" and part.seconds > 0.5 for part in parts)
    assert parts[-1].task.endswith("main")


def test_every_span_of_a_build_has_its_cause(trace: Path) -> None:
    """Steps, stages, transfers and layers name what they waited for, tasks who began them."""
    events = json.loads(trace.read_bytes())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    categories = {event["cat"] for event in spans}
    assert {
        "step",
        "stage",
        "pull",
        "unpack",
        "pack",
        "push",
        "resolve",
        "task",
        "wait",
    } <= categories
    for event in spans:
        if event["cat"] in ("stage", "pull", "unpack", "pack", "wait"):
            assert event["args"]["cause"], event
    (copied,) = [e for e in spans if e["cat"] == "stage" and e["name"] != "made"]
    assert copied["args"]["cause"] in (
        "files ('/1',) but (), parents False, of stage made",
        "stage made",
    )


def test_the_program(trace: Path) -> None:
    """``perf/critical`` prints the whole, and parts that add up to it."""
    done = subprocess.run(
        [ROOT / "perf/critical", trace, "--least", "0"], check=True, capture_output=True, text=True
    )
    wall, _, *rows = done.stdout.splitlines()
    seconds = [float(row.split()[1]) for row in rows[:-1]]
    first = float(rows[0].split()[0])
    assert first + sum(seconds) == pytest.approx(float(wall.split()[0]), abs=0.001 * len(rows))


def test_small_parts_are_one_line() -> None:
    """What is below the least is summed up at the end."""
    parts = [Part(0, 0.5, "a", "x"), Part(0.5, 99.5, "b", "y"), Part(99.5, 100, "c", "z")]
    assert render(parts, 0.01).splitlines()[2:] == [
        "   0.500   99.000  99.0%  b: y",
        "            1.000   1.0%  parts below 1.0%",
    ]
