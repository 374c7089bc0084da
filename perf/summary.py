"""``perf/run summary NAME...``: the short table of one result or of several, ours beside the best peer.

The cells of several results are put together, the runs of a cell that more than one has are one cell's. ``--into``
keeps the whole as a result of its own, with table and plots.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perf.bases import load_bases
from perf.results import RESULTS, Run, load_results, medians, short_table, write_results

#: What results must agree upon to be comparable.
_CONDITIONS = ("cores", "kernel", "bandwidth", "per_connection", "window", "registry")


@dataclass(frozen=True, slots=True)
class Joined:
    """Several results as one: each run with the log of its requests."""

    facts: dict[str, object]
    runs: tuple[Run, ...]
    logs: tuple[Path, ...]


def join(folders: Sequence[Path]) -> Joined:
    """The results in ``folders``; repeats of one case are counted on.

    Raises:
        SystemExit: They were taken under different conditions, or with different versions of a tool.

    """
    facts: dict[str, object] = {}
    runs: list[Run] = []
    logs: list[Path] = []
    counted: Counter[tuple[str, str, str, float]] = Counter()
    for folder in folders:
        more, taken = load_results(folder)
        facts = _agreed(facts, more, folder.name)
        for run in taken:
            case = (run.tool, run.job, run.state, run.rtt)
            counted[case] += 1
            logs.append(folder / "requests" / run.log_name)
            runs.append(replace(run, repeat=counted[case]))
    return Joined(facts, tuple(runs), tuple(logs))


def _agreed(facts: dict[str, object], more: dict[str, object], name: str) -> dict[str, object]:
    if not facts:
        return more
    for condition in _CONDITIONS:
        if facts[condition] != more[condition]:
            raise SystemExit(f"perf: {name} has another {condition} than the results before it")
    versions, others = facts["versions"], more["versions"]
    assert isinstance(versions, dict)
    assert isinstance(others, dict)
    if changed := {tool for tool in versions if others.get(tool, versions[tool]) != versions[tool]}:
        raise SystemExit(f"perf: {name} has another version of {', '.join(sorted(changed))}")
    told = {
        word: " and ".join(dict.fromkeys(str(each[word]) for each in (facts, more) if word in each))
        for word in ("date", "commit")
    }
    last = {"left for another time": more.get("left for another time", "nothing")}
    return {**facts, **told, **last, "versions": {**versions, **others}}


def keep(joined: Joined, results: Path) -> None:
    """As a result of its own."""
    shutil.rmtree(results, ignore_errors=True)
    (results / "requests").mkdir(parents=True)
    for run, log in zip(joined.runs, joined.logs, strict=True):
        shutil.copyfile(log, results / "requests" / run.log_name)
    write_results(results, joined.facts, list(joined.runs), load_bases())


def main(arguments: list[str]) -> None:
    """Print the short table."""
    parser = argparse.ArgumentParser(prog="perf/run summary", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="folders in perf/results")
    parser.add_argument("--into", help="folder in perf/results; what it has is replaced")
    options = parser.parse_args(arguments)
    if options.into in options.names:
        parser.error("--into is to be another folder than those that are read")
    joined = join([RESULTS / name for name in options.names])
    if options.into:
        keep(joined, RESULTS / options.into)
    print(short_table(medians(joined.runs), joined.facts, load_bases()), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
