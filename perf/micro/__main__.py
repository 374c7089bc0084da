"""``PYTHONPATH=src .venv/bin/python -m perf.micro [--json FILE] [layers] [wire] [startup]``: the small
figures.
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
from perf.micro import layers, startup, wire
from perf.micro.figure import Figure

_ROOMS = ("startup", "layers", "wire")


def _figures(rooms: list[str], scratch: Path) -> Iterator[Figure]:
    if "startup" in rooms:
        yield from startup.figures()
    if "layers" in rooms:
        make_bases()
        yield from layers.figures(layers.make_samples(scratch))
    if "wire" in rooms:
        yield from wire.figures(scratch)


def main() -> None:
    """Print each figure as it is there."""
    parser = argparse.ArgumentParser(prog="python -m perf.micro", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("rooms", nargs="*", default=list(_ROOMS), help=f"of {' '.join(_ROOMS)}")
    options = parser.parse_args()
    scratch = cache_directory() / f"micro-{os.getpid()}"
    scratch.mkdir(parents=True)
    found = []
    try:
        for figure in _figures(options.rooms, scratch):
            print(figure.line(), flush=True)
            found.append(asdict(figure))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
