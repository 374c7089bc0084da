"""The bench: jobs over links by tools, interleaved, with medians. ``perf/run --help`` tells its
arguments.

A run starts from its job's own state unless ``--states`` says another. Cold: a fresh store, a fresh registry
that holds the bases and nothing else. Cached: the registry also has what the tool built and cached before; that
build is made once for a job and a tool, and every run starts from a copy of what it left. Repeats are interleaved
(A B A B), so that a busy minute of the machine meets every tool. RTTs come in the order in which they are given, all
jobs at one before the next: when ``--minutes`` are over, what is left is named and not run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from perf.bases import cache_directory, load_bases, make_bases, seed_directory
from perf.farsite import FarLink, Link, Registry, certificate, copy_of_storage, free_port
from perf.jobs import JOBS, Job, lay_out
from perf.measure import Cell, Usage, measure
from perf.requests import Traffic, read_log
from perf.results import Run, write_results
from perf.tools import Build, Tool, environment, known_tools

RESULTS = Path(__file__).resolve().parent / "results"


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
    """Where the bench stands: scratch on tmpfs, results, and the near port, the same for the whole
    bench.
    """

    scratch: Path
    results: Path
    port: int


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


@contextlib.contextmanager
def far_registry(stand: Stand, link: Link, log: Path, holds: Path) -> Iterator[Path]:
    """A registry behind the link at the stand's port that has what ``holds`` (another storage) has; yields
    its storage.
    """
    storage = stand.scratch / "registry"
    copy_of_storage(holds, storage)
    try:
        with Registry(storage) as registry, FarLink(registry.address, link, log, stand.port):
            yield storage
    finally:
        shutil.rmtree(storage, ignore_errors=True)


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
        with far_registry(stand, case.link, requests, holds) as storage:
            usage = _measured(case.tool, build, output)
            repositories = storage / "docker/registry/v2/repositories"
            tag = repositories / build.repository / "_manifests/tags/1/current/link"
            arrived = tag.exists()
        traffic = read_log(requests, usage.started)
    return _as_run(case, repeat, usage, traffic, arrived=arrived)


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
    kept = stand.scratch / "cached" / f"{case.job.name}-{case.tool.name}"
    if kept.exists():
        return kept
    (case.job.change or _no_change)(build.context, 0)
    log = stand.results / "requests" / f"{case.name}.warm-up"
    with far_registry(stand, case.link.direct(), log, seed_directory()) as storage:
        _measured(case.tool, build, output)
        copy_of_storage(storage, kept)
    _remove(build.state)
    build.state.mkdir()
    return kept


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
        os.system(f"umount -l '{target}'")
    shutil.rmtree(state, ignore_errors=True)


def _listed(text: str) -> list[str]:
    return text.split(",")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """What to run; lists are separated by commas."""
    parser = argparse.ArgumentParser(prog="perf/run", description=__doc__)
    tools = known_tools()
    parser.add_argument("--jobs", type=_listed, default=list(JOBS), help=f"of {','.join(JOBS)}")
    parser.add_argument(
        "--tools", type=_listed, default=["asyncbuild", "buildah"], help=f"of {','.join(tools)}"
    )
    parser.add_argument(
        "--rtts", type=_listed, default=["0", "100"], help="round trips in milliseconds"
    )
    parser.add_argument(
        "--states",
        type=_listed,
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
                rates = (options.bandwidth, options.per_connection, options.window)
                speech = (options.tls, options.token, options.redirect)
                link = Link(float(rtt) / 1000, *rates, *speech)
                yield [Case(JOBS[job], tools[name], link, state) for name in options.tools]


def machine(options: argparse.Namespace) -> dict[str, object]:
    """What the results are true for."""
    tools = known_tools()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "bandwidth": options.bandwidth,
        "per_connection": options.per_connection,
        "window": options.window,
        "registry": " ".join(
            word for word in ("tls", "token", "redirect") if getattr(options, word)
        )
        or "plain",
        "versions": {name: tools[name].version() for name in options.tools},
    }


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
    facts = machine(options)
    runs: list[Run] = []
    with standing(options.name) as stand:
        try:
            for run in measured(options, stand):
                runs.append(run)
                print(run.line(), file=sys.stderr, flush=True)
                if not run.succeeded and not options.keep_going:
                    raise SystemExit(
                        f"perf: {run.job} by {run.tool} failed, see {stand.results}/logs"
                    )
        finally:
            if runs:
                (stand.results / "results.json").write_text(
                    json.dumps({"machine": facts, "runs": [asdict(run) for run in runs]}, indent=1)
                )
                write_results(stand.results, facts, runs, load_bases())
                print(f"perf: results in {stand.results}", file=sys.stderr)
    return 0 if all(run.succeeded for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
