"""The worker's messages, and what a child must not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypothesis import given

import asyncbuild.errors
from asyncbuild.layers import worker
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.compression import GZIP
from support.layers import change_sets


@given(change_sets())
def test_change_sets_travel_exactly(changes: ChangeSet) -> None:
    """Names that are not UTF-8, attributes, sources: all as they were."""
    assert worker.unflat(worker.flat(changes)) == changes


def test_messages_have_their_length() -> None:
    """Eight bytes of length, then a pickle of it."""
    job = worker.PackJob(worker.flat(ChangeSet()), "/blob", GZIP)
    message = worker.encode(job)
    assert worker.LENGTH.unpack(message[:8])[0] == len(message) - 8
    assert worker.decode(message[8:]) == job


def test_a_child_imports_nothing_heavy() -> None:
    """Its start is what the first layer waits for; the package's public face stays out of it."""
    package = Path(asyncbuild.errors.__file__).parent
    program = worker.BOOT.replace("main()", "print(*sys.modules)")
    libraries = {path for path in sys.path if path.endswith("site-packages")}
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", program, str(package), *libraries]
    modules = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    heavy = {
        "trio",
        "httpx",
        "httpcore",
        "anyio",
        "zstandard",
        "ssl",
        "asyncio",
        "logging",
        "shutil",
    }
    assert "asyncbuild.layers.worker" in modules
    assert heavy.isdisjoint(modules)
    assert not [
        name for name in modules if name.startswith(("asyncbuild.build", "asyncbuild.registry"))
    ]
