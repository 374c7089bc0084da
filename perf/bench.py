"""The bench: jobs over links by tools, interleaved, with medians. ``perf/run --help`` tells its
arguments.

A run starts from its job's own state unless ``--states`` says another. Cold: a fresh store, a fresh registry
that holds the bases and nothing else. Cached: the registry also has what the tool built and cached before; that
build is made once for a job and a tool, and every run, of this bench and of later ones, starts from a copy of what
it left (`perf.prepared`). Repeats are interleaved
(A B A B), so that a busy minute of the machine meets every tool. RTTs come in the order in which they are given, all
jobs at one before the next: when ``--minutes`` are over, what is left is named and not run.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from perf.bases import cache_directory, load_bases, make_bases, seed_directory
from perf.farsite import FarLink, Link, Registry, certificate, copy_of_storage, free_port
from perf.jobs import JOBS, Job, lay_out
from perf.measure import Cell, Usage, measure
from perf.network import PORT, enter_own_network
from perf.prepared import fingerprint, prepared
from perf.requests import Traffic, read_log
from perf.results import RESULTS, Run, write_results
from perf.tools import Build, Tool, environment, known_tools


@dataclass(frozen=True, slots=True)
class Case:
    """One job by one tool over one link from one state."""

    job: Job
    tool: Tool
    link: Link
    state: str

    @property
    def name(self) -> str:
        """As files of the case are called."""
        return f"{self.job.name}-{self.tool.name}-{self.link.rtt * 1000:.0f}ms-{self.state}"


@dataclass(frozen=True, slots=True)
class Stand:
    """Where runs stand, one after another: scratch on tmpfs, results, the near port, and whether the calling thread's
    network is its own.
    """

    scratch: Path
    results: Path
    port: int
    apart: bool = False


class FarSide:
    """The storage of the registry of one run; ``cpu`` is what that and its link used, once they have ended."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.cpu = 0.0


@contextlib.contextmanager
def standing(name: str) -> Iterator[Stand]:
    """The bases, the folder ``name`` for results, and a place that is gone at the end."""
    make_bases()
    results = RESULTS / name
    for part in ("logs", "requests"):
        (results / part).mkdir(parents=True, exist_ok=True)
    scratch = cache_directory() / f"bench-{os.getpid()}"
    scratch.mkdir(parents=True)
    try:
        yield Stand(scratch, results, free_port())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def own_lane(stand: Stand, name: str) -> Stand:
    """A stand of the calling thread, with a network of its own where that is permitted."""
    scratch = stand.scratch / name
    scratch.mkdir()
    apart = enter_own_network()
    return Stand(scratch, stand.results, PORT if apart else free_port(), apart)


@contextlib.contextmanager
def far_registry(stand: Stand, link: Link, log: Path, holds: Path) -> Iterator[FarSide]:
    """A registry behind the link at the stand's port that has what ``holds`` (another storage) has."""
    side = FarSide(stand.scratch / "registry")
    copy_of_storage(holds, side.storage)
    registry = Registry(side.storage)
    far = FarLink(registry.address, link, log, stand.port)
    try:
        with registry, far:
            yield side
    finally:
        side.cpu = registry.cpu + far.cpu
        shutil.rmtree(side.storage, ignore_errors=True)


def run_case(case: Case, stand: Stand, repeat: int) -> Run:
    """One measured run, and what the registry saw of it."""
    build = _lay_out(case, stand)
    change = case.job.change or _no_change
    output = stand.results / "logs" / f"{case.name}-{repeat}.log"
    requests = stand.results / "requests" / f"{case.name}-{repeat}.jsonl"
    output.unlink(missing_ok=True)
    holds = seed_directory()
    with _state(build.state):
        if case.state == "warm":
            change(build.context, 0)
            with far_registry(stand, case.link.direct(), requests.with_suffix(".warm-up"), holds):
                _measured(case.tool, build, output)
        if case.state == "cached":
            holds = _cached(case, stand, build, output)
            build = replace(build, repository=f"{build.repository}-again")
        change(build.context, 1)
        with far_registry(stand, case.link, requests, holds) as far:
            usage = _measured(case.tool, build, output)
            arrived = _has(far.storage, build.repository)
        traffic = read_log(requests, usage.started)
    run = _as_run(case, repeat, usage, traffic, arrived=arrived)
    return replace(run, far_cpu=far.cpu)


def prepare(case: Case, stand: Stand) -> None:
    """Make what every run of a cached case starts from, unless it is there."""
    if case.state == "cached":
        build = _lay_out(case, stand)
        with _state(build.state):
            _cached(case, stand, build, stand.results / "logs" / f"{case.name}-prepared.log")


def _has(storage: Path, repository: str) -> bool:
    """Whether a registry has the tag that was to be pushed."""
    tags = storage / "docker/registry/v2/repositories" / repository / "_manifests/tags"
    return (tags / "1/current/link").exists()


def _lay_out(case: Case, stand: Stand) -> Build:
    near = f"127.0.0.1:{stand.port}"
    context = lay_out(case.job, near)
    ca = certificate(stand.results / "requests")[0] if case.link.tls else None
    return Build(
        context=context,
        registry=near,
        repository=f"built/{case.job.name.lower()}",
        state=stand.scratch / "state",
        ca=ca,
        destinations=case.job.destinations,
        cached=case.state == "cached",
    )


def _cached(case: Case, stand: Stand, build: Build, output: Path) -> Path:
    """What a registry holds after the tool's first build of the job, with its cache; built on first use.
    Nothing of that build is left here.
    """

    def made() -> Path:
        (case.job.change or _no_change)(build.context, 0)
        log = stand.results / "requests" / f"{case.name}.warm-up"
        kept = stand.scratch / "first"
        with far_registry(stand, case.link.direct(), log, seed_directory()) as far:
            _measured(case.tool, build, output)
            if not _has(far.storage, build.repository):
                raise SystemExit(f"perf: {case.tool.name} cannot build {case.job.name}: {output}")
            copy_of_storage(far.storage, kept)
        _remove(build.state)
        build.state.mkdir()
        return kept

    # How the tool is started is in its class.
    key = fingerprint(case.tool.identity(), inspect.getsource(type(case.tool)), build.registry)
    return prepared(f"{case.job.name}-{case.tool.name}", key, made)


@contextlib.contextmanager
def _state(directory: Path) -> Iterator[None]:
    """A tool's state directory, fresh, and gone afterwards with its mounts."""
    directory.mkdir()
    try:
        yield
    finally:
        _remove(directory)


def _no_change(context: Path, turn: int) -> None:
    """The measured build is the one before."""


def _measured(tool: Tool, build: Build, output: Path) -> Usage:
    cell = Cell()
    try:
        with tool.running(build, cell):
            return measure(
                tool.command(build), environment=environment(build), log=output, cell=cell
            )
    finally:
        cell.close()


def _as_run(case: Case, repeat: int, usage: Usage, traffic: Traffic, *, arrived: bool) -> Run:
    return Run(
        job=case.job.name,
        tool=case.tool.name,
        rtt=case.link.rtt,
        state=case.state,
        repeat=repeat,
        succeeded=usage.exit_code == 0 and arrived,
        started=usage.started,
        wall=usage.wall,
        cpu=usage.cpu,
        peak_rss=usage.peak_rss,
        peak_pss=usage.peak_pss,
        requests=len(traffic.requests),
        connections=len(traffic.connections),
        up=traffic.up,
        down=traffic.down,
    )


def _remove(state: Path) -> None:
    """Remove a tool's state; what it may have left mounted is unmounted first."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in sorted((path for path in mounted if path.startswith(f"{state}/")), reverse=True):
        subprocess.run(["umount", "-l", target], check=False)
    subprocess.run(["rm", "-rf", str(state)], check=False)


def listed(text: str) -> list[str]:
    """An argument's words."""
    return text.split(",")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """What to run; lists are separated by commas."""
    parser = argparse.ArgumentParser(prog="perf/run", description=__doc__)
    tools = known_tools()
    parser.add_argument("--jobs", type=listed, default=list(JOBS), help=f"of {','.join(JOBS)}")
    parser.add_argument(
        "--tools", type=listed, default=["asyncbuild", "buildah"], help=f"of {','.join(tools)}"
    )
    parser.add_argument(
        "--rtts", type=listed, default=["0", "100"], help="round trips in milliseconds"
    )
    parser.add_argument(
        "--states",
        type=listed,
        help="of cold,warm,cached (the tool's own store; a cache in the registry); else each job's own",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="begin no case after so many")
    parser.add_argument("--bandwidth", type=float, default=Link(0).bandwidth, help="bytes a second")
    parser.add_argument(
        "--per-connection", type=float, default=Link(0).per_connection, help="bytes a second"
    )
    parser.add_argument("--window", type=int, default=Link(0).window, help="bytes")
    parser.add_argument("--tls", action="store_true", help="the registry speaks TLS")
    parser.add_argument("--token", action="store_true", help="it asks for tokens of another host")
    parser.add_argument(
        "--redirect", action="store_true", help="it sends blobs' readers to another host"
    )
    parser.add_argument(
        "--name", default=time.strftime("%Y-%m-%dT%H%M"), help="folder in perf/results"
    )
    parser.add_argument("--keep-going", action="store_true", help="note a failed run and go on")
    return parser.parse_args(arguments)


def cases(options: argparse.Namespace) -> Iterator[list[Case]]:
    """The cases that are compared with each other, group by group."""
    tools = known_tools()
    for rtt in options.rtts:
        for job in options.jobs:
            for state in options.states or [JOBS[job].state]:
                link = link_of(options, float(rtt) / 1000)
                yield [Case(JOBS[job], tools[name], link, state) for name in options.tools]


def link_of(options: argparse.Namespace, rtt: float) -> Link:
    """As the arguments say it."""
    rates = (options.bandwidth, options.per_connection, options.window)
    return Link(rtt, *rates, options.tls, options.token, options.redirect)


def machine(names: list[str], link: Link) -> dict[str, object]:
    """What the results are true for."""
    tools = known_tools()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "bandwidth": link.bandwidth,
        "per_connection": link.per_connection,
        "window": link.window,
        "registry": link.speech,
        "versions": {name: tools[name].version() for name in names},
    }


def _commit() -> str:
    """Of this tree; with a plus where files differ from it."""
    root = Path(__file__).resolve().parent
    words = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def measured(options: argparse.Namespace, stand: Stand) -> Iterator[Run]:
    """The runs, interleaved; those for which no time is left are named at the end."""
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    left_out: list[str] = []
    for group in cases(options):
        for repeat in range(1, options.repeats + 1):
            if time.monotonic() > end:
                left_out += [f"{case.name} #{repeat}" for case in group]
                continue
            for case in group:
                yield run_case(case, stand, repeat)
    if left_out:
        print(f"perf: no time for {', '.join(left_out)}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Run the bench; 1 when a run failed."""
    options = parse_arguments(arguments)
    facts = machine(options.tools, link_of(options, 0))
    runs: list[Run] = []
    with standing(options.name) as stand:
        try:
            for run in measured(options, own_lane(stand, "lane")):
                runs.append(run)
                print(run.line(), file=sys.stderr, flush=True)
                if not run.succeeded and not options.keep_going:
                    raise SystemExit(
                        f"perf: {run.job} by {run.tool} failed, see {stand.results}/logs"
                    )
        finally:
            if runs:
                write_results(stand.results, facts, runs, load_bases())
                print(f"perf: results in {stand.results}", file=sys.stderr)
    return 0 if all(run.succeeded for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
