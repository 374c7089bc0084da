"""What a start imports: each module costs the time of every build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncbuild import __version__


def imported_by(program: str) -> set[str]:
    """The modules that a fresh interpreter has after ``program``."""
    text = f"{program}\nimport sys\nprint(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", text], check=True, capture_output=True, text=True
    )
    return set(ran.stdout.split())


def test_the_version_costs_what_python_costs() -> None:
    """Nothing is imported for it but the two modules that say it."""
    plain = imported_by("")
    told = imported_by("from asyncbuild.cli import main")
    assert told - plain == {"asyncbuild", "asyncbuild.cli", "__future__"}


@pytest.mark.parametrize(
    "module",
    [
        "asyncbuild.build.backends",
        "asyncbuild.build.cache_mounts",
        "asyncbuild.build.devices",
        "asyncbuild.build.run_step",
        "asyncbuild.build.ssh_agents",
        "asyncbuild.output.docker",
        "asyncbuild.output.oci",
        "asyncbuild.registry.aws",
        "asyncbuild.report.plain",
        "asyncbuild.report.rawjson",
        "asyncbuild.report.tty",
        "asyncbuild.rootfs.ownroot",
        "asyncbuild.rootfs.sandbox",
        "asyncbuild.rootfs.seccomp",
        "asyncbuild.rootfs.user_namespace",
        "asyncbuild.testing",
        "asyncbuild.transfer.files",
        "asyncio",
        "cryptography",
        "dockerfile_parse",
        "obstore",
        "rich",
        "tarfile",
        "yaml",
    ],
)
def test_a_build_imports_what_it_uses(module: str, build_modules: set[str]) -> None:
    """What only some builds need waits until one does."""
    assert module not in build_modules


def test_what_comes_before_the_first_packet() -> None:
    """Each of these takes 2 to 7 ms, in which no registry is called yet."""
    imported = imported_by("import asyncbuild.cli.commands, asyncbuild.cli.headstart")
    slow = {"ast", "dataclasses", "hashlib", "http", "inspect", "ssl", "subprocess", "trio"}
    assert imported & slow == set()


@pytest.fixture(scope="module")
def build_modules() -> set[str]:
    """What ``asyncbuild build`` has imported before it does anything."""
    return imported_by("import asyncbuild.cli.commands, asyncbuild.cli.build")


END = """
import atexit, os, sys
from asyncbuild.cli import main

class Last:
    def __del__(self, write=os.write):
        write(1, b"taken down\\n")

last = Last()
atexit.register(print, "registered")
sys.argv[:] = ["asyncbuild", *sys.argv[1:]]
%s
sys.exit(main())
"""


def ended(before: str, *words: str, stdout: int | None = subprocess.PIPE) -> tuple[int, list[str]]:
    """The exit code and the lines of a program that is called with ``words``."""
    command = [sys.executable, "-c", END % before, *words]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=env, check=False
    )
    return ran.returncode, [*(ran.stdout or "").splitlines(), *ran.stderr.splitlines()]


def test_the_program_ends_without_being_taken_down() -> None:
    """Its output is written and what was registered happens; to free everything would take 10 ms."""
    assert ended("", "--version") == (0, [f"asyncbuild {__version__}", "registered"])


def test_the_exit_code_is_kept(tmp_path: Path) -> None:
    """A command that fails says so."""
    code, lines = ended("", "check", str(tmp_path / "nothing"))
    assert code == 66
    assert "taken down" not in lines


@pytest.mark.parametrize(
    "watch", ["sys.setprofile(lambda *_: None)", "sys.settrace(lambda *_: None)"]
)
def test_profilers_and_debuggers_see_the_usual_end(watch: str) -> None:
    """They have something to say at the end."""
    code, lines = ended(watch, "--version")
    assert (code, lines[-1]) == (0, "taken down")


def test_output_that_cannot_be_written() -> None:
    """Python's own end tells of it."""
    with open("/dev/full", "wb") as full:
        code, lines = ended("", "--version", stdout=full.fileno())
    assert code == 120
    assert any("No space left on device" in line for line in lines)
