"""The command line's own face: help, usage errors, the version, plans."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.commands import COMMAND, asyncbuild, asyncbuild_here, context, environment, told

SCREEN = 40
"""Lines that any help fits in; 100 columns."""


COMMANDS = ("build", "plan", "check", "pin", "push", "copy", "inspect", "index", "login", "logout")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_shows_an_example(command: str) -> None:
    """One line for each option, one example at least, nothing beyond 100 columns."""
    done = asyncbuild_here(command, "--help", env=environment(COLUMNS="100"))
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 100
    assert f"usage: asyncbuild {command} [options]" in lines[0]
    example = lines[lines.index("example:") + 1]
    assert example.strip().startswith(f"asyncbuild {command}")


def test_help_names_every_command() -> None:
    """``asyncbuild --help`` tells what there is."""
    done = asyncbuild_here("--help", env=environment(COLUMNS="100"))
    text = done.stdout.decode()
    assert [word for word in COMMANDS if f"    {word} " not in text] == []
    assert len(text.splitlines()) <= 25


def test_version_imports_nothing_large(tmp_path: Path) -> None:
    """The version costs what Python costs."""
    done = asyncbuild("--version", env=environment(PYTHONPROFILEIMPORTTIME="1"))
    assert done.returncode == 0
    assert done.stdout.startswith(b"asyncbuild ")
    loaded = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert b"asyncbuild" in loaded
    assert loaded & {b"trio", b"httpx", b"argparse", b"ssl", b"subprocess", b"dataclasses"} == set()


def test_commands_import_what_they_need(shm_path: Path) -> None:
    """Help and plans need neither the network nor an event loop."""
    path = context(shm_path, "FROM scratch\nLABEL a=b\n")
    for words in (["build", "--help"], ["plan", str(path)]):
        done = asyncbuild(*words, env=environment(PYTHONPROFILEIMPORTTIME="1"))
        assert done.returncode == 0, told(done)
        loaded = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
        assert loaded & {b"trio", b"httpx", b"ssl"} == set()


USAGE = {
    "no command": ([], "COMMAND"),
    "unknown command": (["bild", "."], "invalid choice: 'bild'"),
    "no context": (["build"], "CONTEXT"),
    "unknown option": (["build", "--tagg", "x", "CTX"], "--tagg"),
    "abbreviated option": (["build", "--tar", "x", "CTX"], "--tar"),
    "tag": (["build", "-t", "UPPER", "CTX"], "a repository is lower case"),
    "tag with a digest": (["build", "-t", f"x@sha256:{'a' * 64}", "CTX"], "a tag is pushed to"),
    "output": (["build", "-o", "type=none,dest=x", "CTX"], "--output type=none,dest=x"),
    "output without a name": (["build", "-o", "type=registry", "CTX"], "name the image with -t"),
    "push without a name": (["build", "--push", "CTX"], "name the image with -t"),
    "label": (["build", "--label", "x", "CTX"], "--label x: write NAME=VALUE"),
    "annotation": (["build", "--annotation", "x", "CTX"], "--annotation x: write KEY=VALUE"),
    "build argument": (["build", "--build-arg", "=x", "CTX"], "--build-arg =x: write NAME=VALUE"),
    "host": (["build", "--add-host", "x", "CTX"], "--add-host x: write HOST:ADDRESS"),
    "network": (["build", "--network", "x", "CTX"], "invalid choice: 'x'"),
    "platform": (["build", "--platform", "a/b/c/d", "CTX"], "write os/architecture[/variant]"),
    "progress": (["build", "--progress", "x", "CTX"], "auto, plain, tty, quiet, rawjson"),
    "authority": (["build", "--registry-ca", "x", "CTX"], "--registry-ca x: write HOST=FILE"),
    "target": (["build", "--target", "none", "CTX"], "--target none: there is no such stage"),
    "compressions": (
        ["build", "-o", "type=oci,dest=a,compression=zstd", "-o", "type=oci,dest=b,compression=gzip",
         "CTX"],
        "two outputs ask for different compressions",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "text"), USAGE.values(), ids=USAGE)
def test_usage_errors(words: list[str], text: str, shm_path: Path) -> None:
    """Exit code 2, the word that is wrong, nothing on stdout and nothing in a store."""
    path = context(shm_path, "FROM scratch\nLABEL a=b\n")
    store = shm_path / "store"
    given = [str(path) if word == "CTX" else word for word in words]
    if words[:1] == ["build"] and "CTX" in words:
        given[1:1] = ["--store", str(store)]
    done = asyncbuild_here(*given, cwd=shm_path)
    assert done.returncode == 2, told(done)
    assert text in done.stderr.decode(), told(done)
    assert done.stdout == b""
    assert not store.exists()


MISSING = {
    "context": (["none"], "the context none does not exist"),
    "context that is a file": (["context/Dockerfile"], "is not a directory"),
    "Dockerfile": (["-f", "none", "context"], "cannot read the Dockerfile none"),
    "directory of the metadata": (["--metadata-file", "none/m", "context"], "no directory none"),
    "directory of the output": (["-o", "type=oci,dest=none/x", "context"], "no directory none"),
    "authority": (["--registry-ca", "h=none", "context"], "--registry-ca h=none"),
}


@pytest.mark.parametrize(("words", "text"), MISSING.values(), ids=MISSING)
def test_missing_inputs(words: list[str], text: str, shm_path: Path) -> None:
    """Exit code 66, told before anything is built."""
    context(shm_path, "FROM scratch\nLABEL a=b\n")
    done = asyncbuild_here("build", "--store", "store", *words, cwd=shm_path)
    assert done.returncode == 66, told(done)
    assert text in done.stderr.decode(), told(done)
    assert b"[stage-0" not in done.stderr


def test_plan(shm_path: Path) -> None:
    """The stages that are needed, their steps with lines and needs; nothing is fetched."""
    path = context(
        shm_path,
        "FROM registry.invalid/base AS build\nRUN make\n"
        "FROM scratch AS other\nCOPY x /\n"
        "FROM scratch\nARG MODE=slow\nCOPY --from=build /out /$MODE\n",
    )
    done = asyncbuild_here("plan", "--build-arg", "MODE=fast", path)
    assert done.returncode == 0, told(done)
    text = done.stdout.decode()
    assert "registry.invalid/base" in text
    assert "RUN make" in text
    assert "COPY x /" not in text
    assert done.stderr == b""


def test_plan_of_a_wrong_dockerfile(shm_path: Path) -> None:
    """The same errors as a build's, with file, line and excerpt."""
    path = context(shm_path, "FROM scratch\nRUNN make\n")
    done = asyncbuild_here("plan", path)
    assert done.returncode == 65
    assert f"{path}/Dockerfile:2:1" in done.stderr.decode()
    assert "RUNN make" in done.stderr.decode()


def test_reader_that_ends_early(shm_path: Path) -> None:
    """``asyncbuild plan | head -0`` ends without a traceback."""
    path = context(shm_path, "FROM scratch\n" + "LABEL a=b\n" * 3000)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "plan", path], stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""
