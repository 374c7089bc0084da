"""Writing logins: into documents and helpers."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import InputError, StoreError, UsageError
from asyncbuild.registry.auth import Credential
from asyncbuild.registry.credentials import DockerKeychain, read_logins
from asyncbuild.registry.logins import LoginFile, login_file, place_of_registry

BOB = Credential("bob", "s:e cret")
HUB = "https://index.docker.io/v1/"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("registry.example", "registry.example"),
        ("https://Registry.example:5000/", "registry.example:5000"),
        ("docker.io", HUB),
        ("index.docker.io", HUB),
        ("registry.example/team/app", "registry.example/team/app"),
    ],
)
def test_places(text: str, place: str) -> None:
    """A registry as people write it is a key as docker writes it."""
    assert place_of_registry(text) == place


@pytest.mark.parametrize("text", ["", "user@host", "a b", "a\nb", "https://"])
def test_no_places(text: str) -> None:
    """What is no registry is refused."""
    with pytest.raises(UsageError):
        place_of_registry(text)


def test_which_file() -> None:
    """The named one, REGISTRY_AUTH_FILE, docker's."""
    environ = {"DOCKER_CONFIG": "/docker"}
    assert login_file({}, "/home/u") == "/home/u/.docker/config.json"
    assert login_file(environ, "/home/u") == "/docker/config.json"
    assert login_file({**environ, "REGISTRY_AUTH_FILE": "/a"}, "/home/u") == "/a"
    assert login_file(environ, "/home/u", "/named") == "/named"


def store(path: Path, place: str = "r.example", environ: dict[str, str] | None = None) -> str:
    """Keep Bob's login."""
    return trio.run(LoginFile(str(path), environ or {}).store, place, BOB)


def found(path: Path, registry: str, repository: str = "") -> Credential:
    """What a keychain finds there."""
    config = read_logins(str(path))
    assert config is not None
    return trio.run(DockerKeychain([config]).credential, registry, repository)


def test_a_new_file(shm_path: Path) -> None:
    """It is for its owner alone, directory included, and what was written is found."""
    path = shm_path / "new" / "config.json"
    assert store(path) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert found(path, "r.example") == BOB
    store(path, HUB)
    store(path, "r.example/team")
    assert found(path, "docker.io") == found(path, "r.example", "team/a") == BOB
    assert [item.name for item in path.parent.iterdir()] == ["config.json"]


def test_everything_else_stays(shm_path: Path) -> None:
    """Other logins and members of the document are as they were; other spellings of the host are not."""
    path = shm_path / "config.json"
    old = {
        "HttpHeaders": {"X": "y"},
        "auths": {"other.example": {"auth": "eDp5"}, "https://r.example/v2/": {"auth": "eDp5"}},
    }
    path.write_text(json.dumps(old))
    store(path)
    document = json.loads(path.read_text())
    assert document["HttpHeaders"] == old["HttpHeaders"]
    assert list(document["auths"]) == ["other.example", "r.example"]
    assert trio.run(LoginFile(str(path), {}).remove, "r.example")
    assert not trio.run(LoginFile(str(path), {}).remove, "r.example")
    assert list(json.loads(path.read_text())["auths"]) == ["other.example"]


def test_a_link_stays_a_link(shm_path: Path) -> None:
    """The file that it leads to is replaced."""
    (shm_path / "real.json").write_text("{}")
    (shm_path / "config.json").symlink_to("real.json")
    store(shm_path / "config.json")
    assert (shm_path / "config.json").is_symlink()
    assert found(shm_path / "real.json", "r.example") == BOB


def test_helpers(shm_path: Path) -> None:
    """A helper that the document names keeps the login, and the document only its host."""
    program = shm_path / "docker-credential-mine"
    program.write_text(f'#!/bin/sh\necho "$1" >> {shm_path}/log\ncat >> {shm_path}/log\n')
    program.chmod(0o755)
    environ = {"PATH": f"{shm_path}:{os.environ['PATH']}"}
    path = shm_path / "config.json"
    path.write_text('{"credsStore": "mine"}')
    assert store(path, environ=environ) == "docker-credential-mine"
    assert trio.run(LoginFile(str(path), environ).remove, "r.example")
    first, sent, second, erased = (shm_path / "log").read_text().replace("}", "}\n").splitlines()
    assert (first, second, erased) == ("store", "erase", "r.example")
    assert json.loads(sent) == {"ServerURL": "r.example", "Username": "bob", "Secret": "s:e cret"}
    assert "secret" not in path.read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": 3}'])
def test_damaged_documents_are_left_alone(text: str, shm_path: Path) -> None:
    """What cannot be read is not written over."""
    path = shm_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError):
        store(path)
    assert path.read_text() == text


def test_a_place_that_cannot_be_written(shm_path: Path) -> None:
    """It is said, and nothing is left."""
    (shm_path / "file").write_text("")
    with pytest.raises((StoreError, InputError)):
        store(shm_path / "file" / "config.json")
    (shm_path / "dir" / "config.json").mkdir(parents=True)
    with pytest.raises((StoreError, InputError)):
        store(shm_path / "dir" / "config.json")
    assert [item.name for item in (shm_path / "dir").iterdir()] == ["config.json"]
