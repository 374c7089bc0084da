"""--oci-runtime: which program it is, where it can be used, and what is said where it cannot."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncbuild.build.run_options import RunOptions
from asyncbuild.cli.run_arguments import add_run_options
from asyncbuild.cli.run_options import read_run_options
from asyncbuild.errors import IsolationError, UsageError
from asyncbuild.rootfs.oci_runtimes import find_runtime, known_runtimes
from support.builds import HOST, World, add_busybox
from support.commands import asyncbuild, context, told
from support.isolated import POD

BASE = f"FROM {HOST}/base/busybox\n"


def read(*words: str, environ: Mapping[str, str] | None = None) -> RunOptions:
    """What ``build`` makes of its command line."""
    arguments = argparse.ArgumentParser()
    add_run_options(arguments.add_argument_group("RUN"))
    return read_run_options(arguments.parse_args(words), environ or {})


def program(directory: Path, name: str, text: str) -> str:
    """A shell script; its path."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# --- which it is ---------------------------------------------------------------------------------------


def test_option_and_variable() -> None:
    """The option counts before the variable; without both RUN is our own sandbox's."""
    variable = {"ASYNCBUILD_OCI_RUNTIME": "crun"}
    assert read().oci_runtime == ""
    assert read(environ=variable).oci_runtime == "crun"
    assert read("--oci-runtime", "/usr/sbin/runc", environ=variable).oci_runtime == "/usr/sbin/runc"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--oci-runtime=", "write runc, crun, or the absolute path"),
        ("--oci-runtime=./runc", "write runc, crun, or the absolute path"),
        (
            "--oci-runtime=runc --isolation=chroot",
            "needs mounts, and --isolation chroot makes none",
        ),
        (
            "--oci-runtime=crun --isolation=inplace",
            "needs mounts, and --isolation inplace makes none",
        ),
    ],
)
def test_what_means_nothing(words: str, message: str) -> None:
    """Said before anything is built."""
    with pytest.raises(UsageError, match=message):
        read(*words.split())


@pytest.mark.parametrize("name", ["runc", "crun"])
def test_a_name_or_a_path(shm_path: Path, name: str) -> None:
    """A name is found in PATH, or where a user's PATH does not lead; a path may have any name."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin")
    assert path is not None
    assert find_runtime(name, {"PATH": "/nowhere"}).path == path
    (shm_path / "mine").symlink_to(path)
    found = find_runtime(str(shm_path / "mine"), {})
    assert (found.name, found.path) == (name, str(shm_path / "mine"))
    assert found.command[0] == os.fsencode(shm_path / "mine")


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("runc version 0.1.1", "is runc 0.1.1"),
        ("crun version 0.21", "is crun 0.21"),
        ("youki version 0.5.0", "is neither runc nor crun: .* says 'youki version 0.5.0'"),
        ("", "is neither runc nor crun: .* says 'nothing'"),
    ],
)
def test_a_program_that_will_not_do(shm_path: Path, says: str, message: str) -> None:
    """Too old, or another one."""
    path = program(shm_path, "runtime", f"echo '{says}'")
    with pytest.raises(IsolationError, match=message):
        find_runtime(path, {})


def test_a_program_that_is_not_there(shm_path: Path) -> None:
    """The error says what to install; a file that does not run is told apart."""
    with pytest.raises(IsolationError, match="there is no such program") as caught:
        find_runtime("no-such-runtime", {})
    assert "Debian's packages are runc and crun" in str(caught.value.hint)
    path = program(shm_path, "broken", "")
    Path(path).write_text("#!/nowhere/sh\n")
    with pytest.raises(IsolationError, match=r"does not run: .*No such file"):
        find_runtime(path, {})


def test_the_doctor_knows_them(shm_path: Path) -> None:
    """Both are installed for these tests; one that is broken is said to be; in a pod they are of no use."""
    assert [getattr(item, "name", None) for item in known_runtimes({}).values()] == ["runc", "crun"]
    program(shm_path, "runc", "echo runc version 0.1.1")
    found = known_runtimes({"PATH": str(shm_path)})
    assert str(found["runc"]).endswith("runc is runc 0.1.1")
    done = asyncbuild("doctor", "--format", "json", "--store", shm_path / "store")
    assert json.loads(done.stdout)["oci_runtimes"]["runc"]["path"].endswith("/runc")
    done = asyncbuild("doctor", "--store", shm_path / "store", before=POD)
    (line,) = [line for line in done.stdout.decode().splitlines() if "--oci-runtime" in line]
    assert line.endswith("but not possible here: a runtime needs mounts")


# --- builds ----------------------------------------------------------------------------------------------


@pytest.fixture
def world(shm_path: Path) -> World:
    """A world with the busybox base."""
    made = World.below(shm_path)
    add_busybox(made.double)
    return made


@pytest.mark.integration
def test_a_pod_has_no_use_for_one(shm_path: Path, busybox_base: str) -> None:
    """Where nothing can be mounted the RUN is refused, with what the place lacks."""
    where = context(shm_path, f"FROM {busybox_base}\nRUN true\n")
    words = ("build", "--oci-runtime", "runc", "--store", shm_path / "store", where)
    done = asyncbuild(*words, before=POD)
    assert done.returncode == 77, told(done)
    said = done.stderr.decode()
    assert "Dockerfile:2" in said
    assert "--oci-runtime runc is not possible here: a runtime needs mounts (overlay: " in said
    assert "it needs CAP_SYS_ADMIN" in said


@pytest.mark.integration
def test_without_run_none_is_needed(world: World) -> None:
    """It is looked for when a RUN comes; then its absence is the RUN's error."""
    options = RunOptions(oci_runtime="no-such-runtime")
    world.run(f"{BASE}COPY --from={HOST}/base/busybox /bin/sh /x\n", "app", run=options)
    with pytest.raises(IsolationError, match="there is no such program") as caught:
        world.run(f"{BASE}RUN true\n", "app", run=options)
    assert caught.value.location is not None
    assert caught.value.location.line == 2
    assert world.wrong() == []


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "words"), [("runc", "unexpected EOF"), ("crun", "error loading config.json")]
)
def test_what_a_runtime_says_is_told(shm_path: Path, world: World, name: str, words: str) -> None:
    """An error of the runtime's own comes with its words, and not as the command's exit code."""
    real = find_runtime(name, {}).path
    breaks = 'for w; do case $w in */bundle) echo "{" > "$w/config.json";; esac; done'
    path = program(shm_path, "wrapped", f'{breaks}; exec {real} "$@"')
    with pytest.raises(IsolationError, match="OCI runtime wrapped failed: ") as caught:
        world.run(f"{BASE}RUN true\n", "app", run=RunOptions(oci_runtime=path))
    assert words in caught.value.message
    assert "without --oci-runtime" in str(caught.value.hint)
    assert world.wrong() == []
