"""``perf/run micro [--json FILE] [--table FILE] [layers] [wire] [startup] [goals]``: the small figures.

The goals are those of issue 3; ``perf/run goals [--points 3,6]`` takes them alone, and prints their table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from perf.bases import cache_directory, make_bases
from perf.micro import goals, layers, startup, wire
from perf.micro.figure import Figure

_ROOMS = ("startup", "layers", "wire", "goals")


def _figures(rooms: list[str], points: list[int], scratch: Path) -> Iterator[Figure]:
    if "startup" in rooms:
        yield from startup.figures()
    if "layers" in rooms:
        make_bases()
        yield from layers.figures(layers.make_samples(scratch))
    if "wire" in rooms:
        yield from wire.figures(scratch)
    if "goals" in rooms:
        make_bases()
        yield from goals.figures(scratch, points)


def _points(text: str) -> list[int]:
    chosen = [int(word) for word in text.split(",")]
    if unknown := set(chosen) - set(goals.POINTS):
        raise argparse.ArgumentTypeError(f"no goal for {unknown}: of {goals.POINTS}")
    return chosen


def main() -> None:
    """Print each figure as it is there."""
    parser = argparse.ArgumentParser(prog="python -m perf.micro", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--table", type=Path, help="write the goals' table to this file too")
    parser.add_argument(
        "--points",
        type=_points,
        default=list(goals.POINTS),
        help="goals of these points alone: 3,6",
    )
    parser.add_argument("rooms", nargs="*", default=list(_ROOMS), help=f"of {' '.join(_ROOMS)}")
    options = parser.parse_args()
    scratch = cache_directory() / f"micro-{os.getpid()}"
    scratch.mkdir(parents=True)
    found: list[Figure] = []
    try:
        for figure in _figures(options.rooms, options.points, scratch):
            print(figure.line(), flush=True)
            found.append(figure)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in found], indent=1))
    if "goals" in options.rooms:
        text = goals.table({figure.name: figure for figure in found}, options.points)
        print(f"\n{text}")
        if options.table:
            options.table.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
