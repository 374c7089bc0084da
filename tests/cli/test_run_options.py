"""The options that speak of RUN, as buildx and docker read them."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncbuild.build.run_options import LARGEST_SECRET, RunOptions, Secret, SshSource
from asyncbuild.cli.arguments import parser
from asyncbuild.cli.run_arguments import add_run_options
from asyncbuild.cli.run_options import read_run_options, read_secrets
from asyncbuild.dockerfile.mounts import Device
from asyncbuild.errors import InputError, UsageError
from asyncbuild.rootfs.runspec import Ulimit


def read(*words: str, environ: Mapping[str, str] | None = None) -> RunOptions:
    """What a command line with these words asks for."""
    arguments = argparse.ArgumentParser()
    add_run_options(arguments.add_argument_group("RUN"))
    return read_run_options(arguments.parse_args(words), environ or {})


@pytest.fixture
def place(shm_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to be in, with a file ``token``."""
    (shm_path / "token").write_text("of a file")
    monkeypatch.chdir(shm_path)
    return shm_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id=a,src=token", b"of a file"),
        ("id=a,source=token", b"of a file"),
        ("type=file,id=a,src=token", b"of a file"),
        ("id=token", b"of a file"),
        ("id=VAR", b"of a variable"),
        ("id=a,env=VAR", b"of a variable"),
        ("id=a,type=env,src=VAR", b"of a variable"),
        ("id=a,type=env,env=VAR", b"of a variable"),
        ("id=a,env=NOT_SET", b""),
        ('ID=a,"SRC=token"', b"of a file"),
    ],
)
def test_secrets(place: Path, text: str, expected: bytes) -> None:
    """Buildx's shapes: a file, a variable, or whichever is called like the id."""
    assert place.is_dir()
    (secret,) = read_secrets([text], {"VAR": "of a variable"}).values()
    assert secret == Secret(expected)
    assert "of a" not in repr(secret)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("src=token", "id= is missing"),
        ("id=a,scr=token", "no key scr"),
        ("id=a,type=vault", "not vault"),
        ("id=a,src=token,src=token", "twice"),
        ("id", "key=value"),
    ],
)
def test_secrets_that_are_none(text: str, message: str) -> None:
    """Usage errors."""
    with pytest.raises(UsageError, match=message):
        read_secrets([text], {})


def test_secrets_that_are_not_there_or_too_large(place: Path) -> None:
    """A missing file is named, and how to write it if only the id was given; the limit is BuildKit's."""
    with pytest.raises(InputError, match=r"cannot read nothing") as caught:
        read_secrets(["id=nothing"], {})
    assert "or set the variable nothing" in str(caught.value.hint)
    (place / "large").write_bytes(bytes(LARGEST_SECRET + 1))
    with pytest.raises(UsageError, match="more than"):
        read_secrets(["id=large"], {})
    (place / "large").write_bytes(bytes(LARGEST_SECRET))
    assert len(read_secrets(["id=large"], {})["large"].data) == LARGEST_SECRET


def test_ssh(place: Path) -> None:
    """An agent's socket, the default agent, key files, a raw socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("agent")
    listener.close()
    agent, key = place / "agent", place / "token"
    environ = {"SSH_AUTH_SOCK": str(agent)}
    assert read("--ssh", "default", environ=environ).ssh == {"default": SshSource(agent)}
    found = read("--ssh", "a=agent", "--ssh", "b=token,token", "--ssh", "c=agent,raw=true").ssh
    assert found == {
        "a": SshSource(agent),
        "b": SshSource(keys=(key, key)),
        "c": SshSource(agent, raw=True),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["default"], "SSH_AUTH_SOCK names no agent"),
        (["a=token", "a=token"], "twice"),
        (["a=token,raw=true"], "needs a socket"),
        (["a=token,/dev/null/x"], "cannot use"),
    ],
)
def test_ssh_that_is_none(place: Path, words: list[str], message: str) -> None:
    """What cannot answer for an id."""
    assert place.is_dir()
    with pytest.raises((UsageError, InputError), match=message):
        read(*(word for text in words for word in ("--ssh", text)))


def test_everything_else() -> None:
    """Entitlements, devices and limits, with docker's units."""
    words = (
        "--allow security.insecure --allow network.host --allow device=v.com/d --allow fs.read=/x"
    )
    words += " --device v.com/d=a,required --shm-size 128m --ulimit nofile=10:20 --ulimit core=-1"
    words += " --memory 1.5g --cpus 1.5 --cdi-spec-dir /x"
    assert read(*words.split()) == RunOptions(
        allow=frozenset(["security.insecure", "network.host", "device=v.com/d", "fs.read=/x"]),
        devices=(Device("v.com/d=a", required=True),),
        device_directories=(Path("/x"),),
        shm_size=128 << 20,
        ulimits=(Ulimit("nofile", 10, 20), Ulimit("core", -1, -1)),
        memory=3 << 29,
        cpus=1.5,
    )
    assert read() == RunOptions()
    assert read("--memory", "0", "--cpus", "0", "--shm-size", "0") == RunOptions()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--allow everything", "unknown entitlement"),
        ("--device v.com/d,reqired", "no key"),
        ("--shm-size large", "not a size"),
        ("--memory -1", "not a size"),
        ("--cpus all", "number of processors"),
        ("--cpus -1", "number of processors"),
        ("--cpus nan", "number of processors"),
        ("--ulimit nofile", "NAME=SOFT"),
        ("--ulimit files=1", "NAME=SOFT"),
        ("--ulimit nofile=2:1", "above the hard one"),
        ("--ulimit nofile=-1:1", "above the hard one"),
    ],
)
def test_what_means_nothing(words: str, message: str) -> None:
    """Usage errors that say what is wrong."""
    name, value = words.split()
    with pytest.raises(UsageError, match=message):
        read(f"{name}={value}")


def test_the_command_line_has_them() -> None:
    """They are options of ``asyncbuild build``."""
    options = parser().parse_args(["build", "--secret", "id=A", "."])
    assert read_run_options(options, {"A": os.sep}).secrets == {"A": Secret(b"/")}
