"""Figures of starting up: what a person waits before anything happens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from perf.micro.figure import Figure, duration

_SOURCE = str(Path(__file__).resolve().parents[2] / "src")


def start(*arguments: str) -> None:
    """Run Python with the package's source."""
    environment = {**os.environ, "PYTHONPATH": _SOURCE}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)


def figures() -> Iterator[Figure]:
    """Python alone, our version, and the imports of a build."""
    yield duration("start-python", lambda: start("-c", "pass"))
    yield duration("start-version", lambda: start("-m", "asyncbuild", "--version"))
    yield duration("start-help", lambda: start("-m", "asyncbuild", "build", "--help"))
    yield duration("start-build-imports", lambda: start("-c", "import asyncbuild.cli.build"))
