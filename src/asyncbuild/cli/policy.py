"""Which sources a build may use: ``--policy FILE``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbuild.errors import InputError

if TYPE_CHECKING:
    from asyncbuild.build.gate import SourceGate


def add_policy_option(parser: argparse.ArgumentParser) -> None:
    """The option of ``asyncbuild build``."""
    parser.add_argument("--policy", metavar="FILE", help=argparse.SUPPRESS)


def read_gate(options: argparse.Namespace) -> SourceGate:
    """The gate that the option asks for. Raises `UsageError`, or `InputError` for a missing file."""
    from asyncbuild.build.gate import SourceGate  # noqa: PLC0415 - httpx comes with it
    from asyncbuild.plan.policy import SourcePolicy  # noqa: PLC0415

    file = getattr(options, "policy", None)
    if file is None:
        return SourceGate()
    try:
        raw = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    return SourceGate(SourcePolicy.parse(raw, file))
