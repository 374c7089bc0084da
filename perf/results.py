"""From runs to what people read: medians, a table, plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from perf.bases import BaseLayer
from perf.farsite import Link
from perf.figures import Panel, bars, lines, waterfall
from perf.jobs import JOBS
from perf.limits import Limit, limit
from perf.requests import read_log

_METRICS = ("wall", "cpu", "peak_rss", "peak_pss", "requests", "connections", "up", "down")


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run: seconds and bytes; ``up`` and ``down`` count HTTP's heads and bodies."""

    job: str
    tool: str
    rtt: float
    state: str
    repeat: int
    succeeded: bool
    started: float
    wall: float
    cpu: float
    peak_rss: int
    peak_pss: int
    requests: int
    connections: int
    up: int
    down: int

    @property
    def group(self) -> tuple[str, str, float]:
        """What is compared with each other."""
        return self.job, self.state, self.rtt

    def line(self) -> str:
        """One line for a person who waits."""
        verdict = "" if self.succeeded else "  FAILED"
        what = f"{self.job} {self.state} {self.rtt * 1000:3.0f} ms {self.tool:14} #{self.repeat}"
        cost = f"{self.wall:7.2f} s wall {self.cpu:7.2f} s CPU {self.peak_rss / 1e6:5.0f} MB RSS"
        moved = f"{self.requests:4} requests {self.connections:3} connections"
        return (
            f"{what}{cost} {moved} {self.up / 1e6:6.1f} MB up {self.down / 1e6:6.1f} down{verdict}"
        )


@dataclass(frozen=True, slots=True)
class Median:
    """The medians of a case's runs that succeeded; ``wall_range`` its fastest and slowest."""

    job: str
    state: str
    rtt: float
    tool: str
    runs: int
    wall: float
    wall_range: tuple[float, float]
    cpu: float
    peak_rss: float
    peak_pss: float
    requests: float
    connections: float
    up: float
    down: float


def medians(runs: Iterable[Run]) -> list[Median]:
    """One per job, state, RTT and tool, in this order (tools as they were run)."""
    grouped: dict[tuple[str, str, float, str], list[Run]] = {}
    for run in runs:
        if run.succeeded:
            grouped.setdefault((*run.group, run.tool), []).append(run)
    found = []
    for (job, state, rtt, tool), members in grouped.items():
        walls = [run.wall for run in members]
        middle = {
            name: statistics.median(getattr(run, name) for run in members) for name in _METRICS
        }
        extent = (min(walls), max(walls))
        found.append(Median(job, state, rtt, tool, len(members), wall_range=extent, **middle))
    jobs = list(JOBS)
    return sorted(found, key=lambda median: (jobs.index(median.job), median.state, median.rtt))


def _limit(
    median: Median, facts: dict[str, object], bases: dict[str, tuple[BaseLayer, ...]]
) -> Limit:
    rates = (float(str(facts["bandwidth"])), float(str(facts["per_connection"])))
    return limit(JOBS[median.job], Link(median.rtt, *rates), bases)


def table(
    found: list[Median], facts: dict[str, object], bases: dict[str, tuple[BaseLayer, ...]]
) -> str:
    """The medians as Markdown; ratios are to the job's limit and to the best other tool of the same
    group.
    """
    head = "| job | state | RTT ms | tool | wall s (range) | / limit | / best other | CPU s | RSS MB | PSS MB "
    head += "| requests | connections | up MB | down MB |"
    rows = [head, "|" + " --- |" * 14]
    for median in found:
        others = [
            other.wall
            for other in found
            if (other.job, other.state, other.rtt) == (median.job, median.state, median.rtt)
            and other.tool != median.tool
        ]
        against = f"{median.wall / min(others):.2f}" if others else "-"
        bound = _limit(median, facts, bases).total
        # A limit of a few milliseconds is our arithmetic's error, not a bound: start-up is not in it.
        ratio = f"{median.wall / bound:.2f} of {bound:.2f}" if bound > 0.1 else "-"
        low, high = median.wall_range
        rows.append(
            f"| {median.job} | {median.state} | {median.rtt * 1000:.0f} | {median.tool} "
            f"| {median.wall:.2f} ({low:.2f}-{high:.2f}) | {ratio} | {against} "
            f"| {median.cpu:.2f} | {median.peak_rss / 1e6:.0f} | {median.peak_pss / 1e6:.0f} "
            f"| {median.requests:.0f} | {median.connections:.0f} "
            f"| {median.up / 1e6:.1f} | {median.down / 1e6:.1f} |"
        )
    return "\n".join(rows) + "\n"


def write_results(
    results: Path,
    facts: dict[str, object],
    runs: list[Run],
    bases: dict[str, tuple[BaseLayer, ...]],
) -> None:
    """Write ``table.md``, ``medians.json`` and the plots beside ``results.json``."""
    found = medians(runs)
    stated = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    (results / "table.md").write_text(f"{stated}\n\n{table(found, facts, bases)}")
    described = [
        {**asdict(median), "limit": asdict(_limit(median, facts, bases))} for median in found
    ]
    (results / "medians.json").write_text(json.dumps(described, indent=1))
    _write_plots(results, facts, found, bases)
    for run in runs:
        if run.repeat == 1:
            write_waterfall(results, run)


def _write_plots(
    results: Path,
    facts: dict[str, object],
    found: list[Median],
    bases: dict[str, tuple[BaseLayer, ...]],
) -> None:
    by_rtt: dict[str, Panel] = {}
    for median in found:
        panel = by_rtt.setdefault(f"{median.job} {median.state}", {})
        panel.setdefault(median.tool, []).append((median.rtt * 1000, median.wall))
        bound = (median.rtt * 1000, _limit(median, facts, bases).total)
        if bound not in panel.setdefault("limit", []):
            panel["limit"].append(bound)
    (results / "wall-by-rtt.svg").write_text(lines(by_rtt, "wall, s, by RTT, ms"))
    metrics: dict[str, Callable[[Median], float]] = {
        "wall, s": lambda median: median.wall,
        "CPU, s": lambda median: median.cpu,
        "peak RSS, MB": lambda median: median.peak_rss / 1e6,
        "requests": lambda median: median.requests,
        "bytes up + down, MB": lambda median: (median.up + median.down) / 1e6,
    }
    charts: dict[str, dict[str, dict[str, float]]] = {}
    for title, value in metrics.items():
        for median in found:
            group = f"{median.job} {median.rtt * 1000:.0f} ms" + (
                " warm" if median.state == "warm" else ""
            )
            charts.setdefault(title, {}).setdefault(group, {})[median.tool] = value(median)
    (results / "costs.svg").write_text(bars(charts))


def write_waterfall(results: Path, run: Run) -> None:
    """The waterfall of one run, from its log."""
    name = f"{run.job}-{run.tool}-{run.rtt * 1000:.0f}ms-{run.state}"
    traffic = read_log(results / "requests" / f"{name}-{run.repeat}.jsonl", run.started)
    (results / f"waterfall-{name}.svg").write_text(waterfall(name, traffic, run.wall))
