"""``executor login``."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import trio

from asyncbuild.cli.kaniko import kaniko
from asyncbuild.errors import InputError, UsageError
from asyncbuild.registry.credentials import DockerKeychain, load_docker_configs


def test_the_login_is_found_afterwards(shm_path: Path) -> None:
    """It is written for its owner only, beside what was there, where the next build looks."""
    directory = shm_path / "config"
    directory.mkdir()
    (directory / "config.json").write_text('{"auths": {"old.test": {"auth": "YTpi"}}, "x": 1}')
    environ = {"DOCKER_CONFIG": str(directory)}
    assert kaniko(["login", "reg.test:5000", "-u", "me", "-p", "pass:word"], environ) == 0
    keychain = DockerKeychain(load_docker_configs(environ, str(shm_path)), environ)
    found = trio.run(keychain.credential, "reg.test:5000")
    assert (found.username, found.password) == ("me", "pass:word")
    document = json.loads((directory / "config.json").read_text())
    assert document["x"] == 1
    assert "old.test" in document["auths"]
    assert (directory / "config.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in directory.iterdir()] == ["config.json"]


def test_docker_hub_has_its_old_key(shm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password may be piped; one line end of it is not meant."""
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\r\n"))
    environ = {"DOCKER_CONFIG": str(shm_path / "new")}
    assert kaniko(["login", "docker.io", "--username=me", "--password-stdin"], environ) == 0
    document = json.loads((shm_path / "new/config.json").read_text())
    assert document == {"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0"}}}


@pytest.mark.parametrize(
    "words",
    [
        ["-u", "me", "-p", "x"],
        ["a", "b", "-u", "me", "-p", "x"],
        ["a", "-p", "x"],
        ["a", "-u", "me"],
        ["a", "-u", "me", "-p", "x", "--password-stdin"],
        ["a/b/c", "-u", "me", "-p", "x"],
    ],
)
def test_half_a_login_is_refused(words: list[str], shm_path: Path) -> None:
    """One registry, a user, one way to give the password."""
    with pytest.raises(UsageError):
        kaniko(["login", *words], {"DOCKER_CONFIG": str(shm_path)})


def test_a_damaged_file_is_left_alone(shm_path: Path) -> None:
    """What is no JSON is not overwritten."""
    (shm_path / "config.json").write_text("{")
    with pytest.raises(InputError):
        kaniko(["login", "a.test", "-u", "me", "-p", "x"], {"DOCKER_CONFIG": str(shm_path)})
    assert (shm_path / "config.json").read_text() == "{"
