"""``asyncbuild du`` and ``asyncbuild prune``: how much the store holds, and less of it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterable

from asyncbuild.cli.cache_options import duration
from asyncbuild.cli.places import store_directory
from asyncbuild.errors import UsageError
from asyncbuild.store.upkeep import KINDS, Kept, PruneRule, contents
from asyncbuild.store.upkeep import prune as prune_store

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def du(options: argparse.Namespace) -> int:
    """Print a line for each kind of thing, or for each thing, and the total."""
    kept = contents(store_directory(options.store, os.environ))
    if options.verbose:
        for item in sorted(kept, key=lambda item: -item.size):
            sys.stdout.write(f"{_size(item.size):>10}  {item.kind:<11}  {item.name}\n")
    sys.stdout.write(_summary(kept))
    return 0


def prune(options: argparse.Namespace) -> int:
    """Remove, and print what is gone."""
    if not (options.all or options.older_than or options.keep):
        raise UsageError(
            "prune removes nothing by itself", hint="say --older-than, --keep or --all"
        )
    before = time.time() - duration(options.older_than) if options.older_than else None
    most = 0 if options.all else parse_size(options.keep) if options.keep else None
    if options.all:
        before = float("inf")
    gone = prune_store(store_directory(options.store, os.environ), PruneRule(before, most))
    sys.stdout.write(_summary(gone, "removed"))
    return 0


def parse_size(text: str) -> int:
    """``20GB``, ``500M``, ``1GiB`` or bytes; `UsageError` otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise UsageError(f"{text!r} is not a size", hint="write it like 20GB or 500MiB")
    units = _BINARY if match[3] else _UNITS
    return int(float(match[1]) * units[match[2]])


def _summary(kept: Iterable[Kept], word: str = "total") -> str:
    items = tuple(kept)
    lines = []
    for kind in KINDS:
        sizes = [item.size for item in items if item.kind == kind]
        if sizes:
            lines.append(f"{_size(sum(sizes)):>10}  {len(sizes)} {kind}{'s' * (len(sizes) != 1)}\n")
    return "".join(lines) + f"{_size(sum(item.size for item in items)):>10}  {word}\n"


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
