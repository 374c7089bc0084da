"""How large a layer or an archive may be: ``--max-layer-size``, ``-ratio``, ``-entries``."""

from __future__ import annotations

import argparse

from asyncbuild.dockerfile.quantities import parse_size
from asyncbuild.dockerfile.source import Problem
from asyncbuild.errors import UsageError
from asyncbuild.layers.limits import LIMITS, LayerLimits


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``asyncbuild build``; 0 is no limit."""
    for name in ("size", "ratio", "entries"):
        parser.add_argument(f"--max-layer-{name}", metavar="N", help=argparse.SUPPRESS)


def read_limits(options: argparse.Namespace) -> LayerLimits:
    """The limits that the options set; a command without them has the usual ones. Raises `UsageError`."""
    size = getattr(options, "max_layer_size", None)
    ratio = getattr(options, "max_layer_ratio", None)
    entries = getattr(options, "max_layer_entries", None)
    return LayerLimits(
        LIMITS.size if size is None else _size(size),
        LIMITS.ratio if ratio is None else float(_count("ratio", ratio)),
        LIMITS.entries if entries is None else _count("entries", entries),
    )


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except Problem as problem:
        raise UsageError(f"--max-layer-size: {problem}") from None


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--max-layer-{name} {text}: a whole number, 0 for no limit")
    return int(text)
