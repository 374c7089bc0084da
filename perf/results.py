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

#: Stands in tables behind the time of a case that shared the machine.
SIDE_BY_SIDE = " ‖"

RESULTS = Path(__file__).resolve().parent / "results"
#: The tool that others are compared with.
OURS = "asyncbuild"

_METRICS = ("wall", "cpu", "peak_rss", "peak_pss", "requests", "connections", "up", "down")


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run: seconds and bytes; ``up`` and ``down`` count HTTP's heads and bodies. ``far_cpu``: CPU of the
    registry and the link. ``beside``: the cores that other runs used on average meanwhile; 0 where it was alone.
    """

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
    far_cpu: float = 0.0
    beside: float = 0.0

    @property
    def log_name(self) -> str:
        """The file with its requests."""
        return f"{self.job}-{self.tool}-{self.rtt * 1000:.0f}ms-{self.state}-{self.repeat}.jsonl"

    @property
    def cores(self) -> float:
        """What it used on average, with its registry and link."""
        return (self.cpu + self.far_cpu) / self.wall

    @property
    def group(self) -> tuple[str, str, float]:
        """What is compared with each other."""
        return self.job, self.state, self.rtt

    def line(self) -> str:
        """One line for a person who waits."""
        verdict = "" if self.succeeded else "  FAILED"
        what = f"{self.job} {self.state} {self.rtt * 1000:3.0f} ms {self.tool:14} #{self.repeat}"
        cost = f"{self.wall:7.2f} s wall {self.cpu:7.2f} s CPU {self.peak_rss / 1e6:5.0f} MB RSS"
        beside = f"  (beside {self.beside:.2f} cores)" if self.beside else ""
        moved = f"{self.requests:4} requests {self.connections:3} connections"
        return f"{what}{cost} {moved} {self.up / 1e6:6.1f} MB up {self.down / 1e6:6.1f} down{beside}{verdict}"


@dataclass(frozen=True, slots=True)
class Median:
    """The medians of a case's runs that succeeded; ``wall_range`` its fastest and slowest, ``beside`` the most."""

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
    beside: float = 0.0

    @property
    def mark(self) -> str:
        """Of a case that was not alone on the machine."""
        return SIDE_BY_SIDE if self.beside else ""


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
        beside = max(run.beside for run in members)
        case = (job, state, rtt, tool, len(members))
        found.append(Median(*case, wall_range=extent, beside=beside, **middle))
    jobs = list(JOBS)
    return sorted(found, key=lambda median: (jobs.index(median.job), median.state, median.rtt))


def against_limit(wall: float, bound: float) -> str:
    """As tables say it. A limit of a few milliseconds is our arithmetic's error, not a bound: start-up is not in it."""
    return f"{wall / bound:.2f} of {bound:.2f}" if bound > 0.1 else "-"


def limit_of(
    median: Median, facts: dict[str, object], bases: dict[str, tuple[BaseLayer, ...]]
) -> Limit:
    rates = (float(str(facts["bandwidth"])), float(str(facts["per_connection"])))
    window = int(str(facts["window"]))
    return limit(JOBS[median.job], Link(median.rtt, *rates, window), bases)


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
        bound = limit_of(median, facts, bases).total
        ratio = against_limit(median.wall, bound)
        low, high = median.wall_range
        rows.append(
            f"| {median.job} | {median.state} | {median.rtt * 1000:.0f} | {median.tool} "
            f"| {median.wall:.2f} ({low:.2f}-{high:.2f}){median.mark} | {ratio} | {against} "
            f"| {median.cpu:.2f} | {median.peak_rss / 1e6:.0f} | {median.peak_pss / 1e6:.0f} "
            f"| {median.requests:.0f} | {median.connections:.0f} "
            f"| {median.up / 1e6:.1f} | {median.down / 1e6:.1f} |"
        )
    return "\n".join(rows) + "\n"


def _marked(found: list[Median]) -> str:
    """What the mark says, where there is one."""
    if not any(median.mark for median in found):
        return ""
    return f"{SIDE_BY_SIDE.strip()}: taken beside other runs that wait, each over a link of its own (docs/performance.md)\n"


def short_table(
    found: list[Median], facts: dict[str, object], bases: dict[str, tuple[BaseLayer, ...]]
) -> str:
    """Ours beside the best peer of each cell as Markdown; pairs are ours / theirs. Cells without ours are left out."""
    head = "| job | RTT ms | asyncbuild s | best peer s | ours / best peer | ours / limit | CPU s | RSS MB | requests | MB up |"
    rows = [head, "|" + " --- |" * 10]
    for ours in (median for median in found if median.tool == OURS):
        cell = (ours.job, ours.state, ours.rtt)
        peers = [m for m in found if (m.job, m.state, m.rtt) == cell and m.tool != OURS]
        peer = min(peers, key=lambda median: median.wall, default=None)
        name = f"{peer.tool} {_seconds(peer)}" if peer else "-"
        columns = [
            ours.job,
            f"{ours.rtt * 1000:.0f}",
            f"**{_seconds(ours)}**",
            name,
            f"{ours.wall / peer.wall:.2f}" if peer else "-",
            against_limit(ours.wall, limit_of(ours, facts, bases).total),
            *(
                f"{value(ours)} / {value(peer) if peer else '-'}"
                for value in (_cpu, _megabytes, _requests, _up)
            ),
        ]
        rows.append(f"| {' | '.join(columns)} |")
    return "\n".join(rows) + f"\n\n{_marked(found)}"


def _seconds(median: Median) -> str:
    low, high = median.wall_range
    extent = f" ({low:.2f}-{high:.2f})" if median.runs > 1 else ""
    return f"{median.wall:.2f}{extent}{median.mark}"


def _cpu(median: Median) -> str:
    return f"{median.cpu:.2f}"


def _megabytes(median: Median) -> str:
    return f"{median.peak_rss / 1e6:.0f}"


def _requests(median: Median) -> str:
    return f"{median.requests:.0f}"


def _up(median: Median) -> str:
    return f"{median.up / 1e6:.0f}"


def load_results(results: Path) -> tuple[dict[str, object], list[Run]]:
    """What `write_results` wrote: the machine's facts, and the runs."""
    stored = json.loads((results / "results.json").read_text())
    return stored["machine"], [Run(**run) for run in stored["runs"]]


def write_results(
    results: Path,
    facts: dict[str, object],
    runs: list[Run],
    bases: dict[str, tuple[BaseLayer, ...]],
) -> None:
    """Write ``results.json``, ``table.md``, ``short.md``, ``medians.json`` and the plots."""
    stated_runs = {"machine": facts, "runs": [asdict(run) for run in runs]}
    (results / "results.json").write_text(json.dumps(stated_runs, indent=1))
    found = medians(runs)
    stated = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    (results / "table.md").write_text(f"{stated}\n\n{table(found, facts, bases)}\n{_marked(found)}")
    (results / "short.md").write_text(short_table(found, facts, bases))
    described = [
        {**asdict(median), "limit": asdict(limit_of(median, facts, bases))} for median in found
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
        bound = (median.rtt * 1000, limit_of(median, facts, bases).total)
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
    traffic = read_log(results / "requests" / run.log_name, run.started)
    (results / f"waterfall-{name}.svg").write_text(waterfall(name, traffic, run.wall))
