"""What a start imports: each module costs the time of every build."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
        "asyncbuild.build.devices",
        "asyncbuild.build.ssh_agents",
        "asyncbuild.output.docker",
        "asyncbuild.output.oci",
        "asyncbuild.registry.aws",
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


@pytest.fixture(scope="module")
def build_modules() -> set[str]:
    """What ``asyncbuild build`` has imported before it does anything."""
    return imported_by("import asyncbuild.cli.commands, asyncbuild.cli.build")
