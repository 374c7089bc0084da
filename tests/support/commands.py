"""Running the command line: in a process of its own, as a person does, or in this one, which is faster."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import trio

from asyncbuild.cli import main

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


async def build_quietly(directory: Path, words: Sequence[str]) -> str:
    """What a build says on standard error, at a fixed time; it must end well and without a warning."""
    done = await trio.run_process(
        words,
        cwd=directory,
        env=environment(SOURCE_DATE_EPOCH="1700000000"),
        capture_stderr=True,
        capture_stdout=True,
        check=False,
    )
    text = done.stderr.decode()
    assert done.returncode == 0, text
    assert "warning" not in text.lower(), text
    return text


def asyncbuild_here(
    *words: str | Path,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """As `asyncbuild`, in this process: its start and its imports are saved."""
    given = stdin.encode() if isinstance(stdin, str) else stdin or b""
    with _streams(given) as (said, complained), _surroundings(env, cwd):
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:
            code = int(error.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        written = [
            Path(f"/proc/self/fd/{file.fileno()}").read_bytes() for file in (said, complained)
        ]
    return subprocess.CompletedProcess(words, code, written[0], written[1])


@contextlib.contextmanager
def _streams(given: bytes) -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """Put files in the place of the standard streams: as descriptors, and as Python's objects."""
    old = sys.stdin, sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(buffering=0)) for _ in range(3)]
        files[0].write(given)
        files[0].seek(0)
        for number, file in enumerate(files):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - closed below
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        try:
            yield files[1], files[2]
        finally:
            for stream in (sys.stdin, sys.stdout, sys.stderr):
                stream.close()
            sys.stdin, sys.stdout, sys.stderr = old


@contextlib.contextmanager
def _surroundings(env: Mapping[str, str] | None, cwd: Path | None) -> Iterator[None]:
    """Another environment, another working directory."""
    kept, place = dict(os.environ), Path.cwd()
    os.environ.clear()
    os.environ.update(environment() if env is None else env)
    os.chdir(cwd or place)
    try:
        yield
    finally:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(kept)


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
