"""Logins from docker's config.json and from helpers."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncbuild.errors import InputError
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.credentials import (
    DockerConfig,
    DockerKeychain,
    NoLogins,
    ask_helper,
    host_of_key,
    load_docker_configs,
)


def basic(pair: str) -> str:
    """The value of ``auth``."""
    return base64.b64encode(pair.encode()).decode()


def config(**document: Any) -> DockerConfig:
    """A decoded config.json."""
    return DockerConfig.parse(json.dumps(document), "config.json")


def ask(registry: str, *configs: DockerConfig, environ: dict[str, str] | None = None) -> Credential:
    """What a keychain of ``configs`` has for ``registry``."""
    return trio.run(DockerKeychain(configs, environ).credential, registry)


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("registry.example", "registry.example"),
        ("Registry.Example:5000", "registry.example:5000"),
        ("https://registry.example", "registry.example"),
        ("https://registry.example/", "registry.example"),
        ("https://registry.example/v1/", "registry.example"),
        ("http://registry.example/v2", "registry.example"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry.example/team", ""),
        ("https://registry.example/v1/team", ""),
        ("user@registry.example", ""),
        ("", ""),
        ("https://", ""),
    ],
)
def test_keys(key: str, host: str) -> None:
    """A key names a host, or nothing; Docker Hub has many names."""
    assert host_of_key(key) == host


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": basic("bob:secret")}, Credential("bob", "secret")),
        ({"auth": basic("bob:with:colons")}, Credential("bob", "with:colons")),
        ({"auth": basic("bob:padded\0\0")}, Credential("bob", "padded")),
        ({"username": "bob", "password": "secret"}, Credential("bob", "secret")),
        (
            {"auth": basic("bob:new"), "username": "old", "password": "old"},
            Credential("bob", "new"),
        ),
        ({"auth": basic("bob:"), "identitytoken": "i"}, Credential("bob", identity_token="i")),
        ({"identitytoken": "i"}, Credential(identity_token="i")),
        ({"registrytoken": "r"}, Credential(registry_token="r")),
        ({}, ANONYMOUS),
    ],
)
def test_entries(entry: dict[str, str], expected: Credential) -> None:
    """Each form of a login in ``auths``."""
    assert ask("registry.example", config(auths={"registry.example": entry})) == expected


@pytest.mark.parametrize("auth", ["not base64!", basic("no colon"), "/w=="])
def test_damaged_entry(auth: str) -> None:
    """A damaged login is an error for its registry, without its text, and for no other."""
    document = config(auths={"bad.example": {"auth": auth}, "good.example": {"auth": basic("a:b")}})
    with pytest.raises(InputError, match=r"the login for bad\.example is damaged") as caught:
        ask("bad.example", document)
    assert auth not in caught.value.render()
    assert ask("good.example", document) == Credential("a", "b")


def test_hosts_are_matched_strictly() -> None:
    """A login belongs to its host and port and to no host that looks like it."""
    document = config(auths={"https://registry.example:5000/v2/": {"auth": basic("a:b")}})
    assert ask("registry.example:5000", document) == Credential("a", "b")
    for other in (
        "registry.example",
        "registry.example:5001",
        "my.registry.example:5000",
        "docker.io",
    ):
        assert ask(other, document) == ANONYMOUS


def test_docker_hub() -> None:
    """The login that `docker login` writes is found for docker.io."""
    document = config(auths={"https://index.docker.io/v1/": {"auth": basic("a:b")}})
    assert ask("docker.io", document) == Credential("a", "b")


def test_first_configuration_wins() -> None:
    """The environment's document goes before the file, host by host."""
    first = config(auths={"a.example": {"auth": basic("env:1")}})
    second = config(
        auths={"a.example": {"auth": basic("file:1")}, "b.example": {"auth": basic("file:2")}}
    )
    assert ask("a.example", first, second).username == "env"
    assert ask("b.example", first, second).username == "file"
    assert ask("c.example", first, second) == ANONYMOUS


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_no_configuration(text: str) -> None:
    """What is no JSON object is named, not guessed at."""
    with pytest.raises(InputError, match=r"^config\.json is not"):
        DockerConfig.parse(text, "config.json")


def test_odd_shapes() -> None:
    """Values of the wrong type are as absent ones."""
    assert ask("a", config(auths=[], credHelpers=None, credsStore=None)) == ANONYMOUS
    assert ask("a", config(auths={"a": "text"})) == ANONYMOUS


def test_load(shm_path: Path) -> None:
    """DOCKER_AUTH_CONFIG, DOCKER_CONFIG and the home directory, in this order; missing files are none."""
    home, other = shm_path / "home", shm_path / "other"
    (home / ".docker").mkdir(parents=True)
    other.mkdir()
    (home / ".docker" / "config.json").write_text('{"auths": {"home": {}}}')
    (other / "config.json").write_text('{"auths": {"other": {}}}')
    environ = {"DOCKER_CONFIG": str(other), "DOCKER_AUTH_CONFIG": '{"auths": {"variable": {}}}'}
    assert [list(found.auths) for found in load_docker_configs({}, str(home))] == [["home"]]
    found = load_docker_configs(environ, str(home))
    assert [list(each.auths) for each in found] == [["variable"], ["other"]]
    assert load_docker_configs({"DOCKER_CONFIG": str(shm_path / "none")}, str(home)) == ()
    (shm_path / "dir" / "config.json").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be read"):
        load_docker_configs({"DOCKER_CONFIG": str(shm_path / "dir")}, str(home))


def helper(directory: Path, name: str, script: str) -> dict[str, str]:
    """Write a credential helper and return an environment that finds it."""
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def test_helper_is_asked(shm_path: Path) -> None:
    """The helper of the host is asked with ``get`` and the host on its standard input."""
    script = (
        'test "$1" = get || exit 3\nread server || true\n'
        'printf \'{"ServerURL":"%s","Username":"%s","Secret":"s"}\' "$server" "$server"'
    )
    environ = helper(shm_path, "mine", script)
    document = config(credHelpers={"registry.example:5000": "mine", "docker.io": "mine"})
    assert ask("registry.example:5000", document, environ=environ) == Credential(
        "registry.example:5000", "s"
    )
    assert ask("docker.io", document, environ=environ).username == "https://index.docker.io/v1/"
    assert ask("registry.example", document, environ=environ) == ANONYMOUS


def test_helper_answers_a_token(shm_path: Path) -> None:
    """The user name <token> marks an identity token."""
    environ = helper(shm_path, "mine", 'echo \'{"Username":"<token>","Secret":"refresh"}\'')
    assert ask("a", config(credsStore="mine"), environ=environ) == Credential(
        identity_token="refresh"
    )


def test_helper_without_a_login(shm_path: Path) -> None:
    """A helper that knows no login leaves the word to ``auths``."""
    environ = helper(shm_path, "mine", "echo credentials not found in native keychain; exit 1")
    document = config(credsStore="mine", auths={"b": {"auth": basic("b:c")}})
    assert ask("a", document, environ=environ) == ANONYMOUS
    assert ask("b", document, environ=environ) == Credential("b", "c")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo locked >&2; exit 1", r"fails for a \(code 1\): locked"),
        ("echo not JSON", "answers with what is no login"),
        ("echo '{}'", "answers with what is no login"),
    ],
)
def test_helper_fails(shm_path: Path, script: str, words: str) -> None:
    """A helper that fails is named, with its words."""
    environ = helper(shm_path, "mine", script)
    with pytest.raises(InputError, match=words):
        ask("a", config(credsStore="mine"), environ=environ)


@pytest.mark.parametrize("name", ["none-such", "../evil", ""])
def test_helper_is_missing(name: str) -> None:
    """A helper that is not installed, or whose name is a path, is an error."""
    with pytest.raises(InputError):
        trio.run(ask_helper, name, "a", None)


def test_no_logins() -> None:
    """The keychain without logins."""
    assert trio.run(NoLogins().credential, "a") == ANONYMOUS
