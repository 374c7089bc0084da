"""Running the command line as a person does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

COMMAND = (sys.executable, "-m", "asyncbuild")
_MINE = ("SOURCE_DATE_EPOCH", "DOCKER_CONFIG", "BUILDKIT_PROGRESS", "NO_COLOR", "CI")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what changes a build, and with ``more``."""
    return {name: value for name, value in os.environ.items() if name not in _MINE} | more


def asyncbuild(
    *words: str | Path,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    before: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end; ``before`` are words that run it, such as ``unshare -m``."""
    return subprocess.run(
        [*before, *COMMAND, *map(str, words)],
        input=stdin.encode() if isinstance(stdin, str) else stdin or b"",
        capture_output=True,
        check=False,
        cwd=cwd,
        env=environment() if env is None else env,
    )


def told(done: subprocess.CompletedProcess[bytes]) -> str:
    """Everything that a command said, for a failing assertion."""
    said = done.stdout[:2000].decode("utf-8", "replace")
    return f"exit code {done.returncode}\n{said}\n{done.stderr.decode('utf-8', 'replace')}"


def context(directory: Path, dockerfile: str, files: Mapping[str, str] | None = None) -> Path:
    """A context directory with a Dockerfile; returns its path."""
    path = directory / "context"
    path.mkdir()
    (path / "Dockerfile").write_text(dockerfile)
    for name, content in (files or {}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path
