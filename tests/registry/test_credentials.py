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
    Keychains,
    NoLogins,
    ask_helper,
    host_of_key,
    load_docker_configs,
    place_of_key,
)


def basic(pair: str) -> str:
    """The value of ``auth``."""
    return base64.b64encode(pair.encode()).decode()


def config(**document: Any) -> DockerConfig:
    """A decoded config.json."""
    return DockerConfig.parse(json.dumps(document), "config.json")


def ask(
    registry: str,
    *configs: DockerConfig,
    environ: dict[str, str] | None = None,
    repository: str = "",
) -> Credential:
    """What a keychain of ``configs`` has for a repository of ``registry``."""
    return trio.run(DockerKeychain(configs, environ).credential, registry, repository)


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


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("Registry.Example/team/app", "registry.example/team/app"),
        ("registry.example/team/", "registry.example/team"),
        ("index.docker.io/library", "docker.io/library"),
        ("https://registry.example/team", "registry.example/team"),
        ("https://registry.example/v2/team", ""),
        ("https://index.docker.io/v1/", "docker.io"),
    ],
)
def test_keys_with_paths(key: str, place: str) -> None:
    """A key may name a host and a path; the paths of docker's own URLs name the host."""
    assert place_of_key(key) == place


@pytest.mark.parametrize(
    ("repository", "user"),
    [
        ("team/app", "app"),
        ("team/app/web", "app"),
        ("team/apple", "team"),
        ("team", "team"),
        ("teams/app", "host"),
        ("", "host"),
    ],
)
def test_the_longest_path_wins(repository: str, user: str) -> None:
    """A login of a path is for that repository and those below it, the longest first."""
    keys = {"r.example": "host", "r.example/team": "team", "r.example/team/app": "app"}
    document = config(auths={key: {"auth": basic(f"{name}:x")} for key, name in keys.items()})
    assert ask("r.example", document, repository=repository).username == user
    assert ask("r.example:5000", document, repository=repository) == ANONYMOUS


def test_a_path_goes_before_the_store(shm_path: Path) -> None:
    """A login of a path is more particular than what a helper knows of the whole host."""
    environ = helper(shm_path, "mine", 'echo \'{"Username":"store","Secret":"s"}\'')
    document = config(auths={"r.example/team": {"auth": basic("team:x")}}, credsStore="mine")
    found = ask("r.example", document, environ=environ, repository="team/app")
    assert found.username == "team"
    assert ask("r.example", document, environ=environ, repository="other").username == "store"


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("*.example", "r.example", True),
        ("*.example", "a.r.example", False),
        ("*.*.example", "a.r.example", True),
        ("r*.example", "registry.example", True),
        ("*.example", "example", False),
        ("*.example", "r.example:5000", False),
        ("*.example:5000", "r.example:5000", True),
        ("*", "localhost", True),
        ("*", "r.example", False),
    ],
)
def test_patterns_of_hosts(pattern: str, host: str, *, matches: bool) -> None:
    """Kubernetes lets ``*`` stand for a part of one label; a plain host goes before a pattern."""
    document = config(auths={pattern: {"auth": basic("a:b")}})
    assert (ask(host, document) == Credential("a", "b")) == matches
    exact = config(auths={pattern: {"auth": basic("a:b")}, host: {"auth": basic("exact:b")}})
    assert ask(host, exact).username == "exact"


def test_dockercfg() -> None:
    """Docker's older document has entries and nothing else: Kubernetes still makes it."""
    entries = {"https://index.docker.io/v1/": {"auth": basic("a:b"), "email": "a@b.example"}}
    assert ask("docker.io", config(**entries)) == Credential("a", "b")
    assert config(HttpHeaders={"auth": "x"}, currentContext="y").auths == {}


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


def test_files_of_other_tools(shm_path: Path) -> None:
    """REGISTRY_AUTH_FILE, Kubernetes' pull secrets and the files of containers tools, in their order."""
    files = {
        "named": "named.json",
        "secret": "docker/.dockerconfigjson",
        "old": "docker/.dockercfg",
        "runtime": "run/containers/auth.json",
        "home": "config/containers/auth.json",
    }
    for name, place in files.items():
        path = shm_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        auths = {name: {"auth": basic("a:b")}}
        path.write_text(json.dumps(auths if name == "old" else {"auths": auths}))
    (shm_path / "docker" / "config.json").write_text("")
    environ = {
        "REGISTRY_AUTH_FILE": str(shm_path / "named.json"),
        "DOCKER_CONFIG": str(shm_path / "docker"),
        "XDG_RUNTIME_DIR": str(shm_path / "run"),
        "XDG_CONFIG_HOME": str(shm_path / "config"),
    }
    found = load_docker_configs(environ, str(shm_path / "nowhere"))
    assert [list(each.auths) for each in found] == [[name] for name in files]


def test_keychains_are_asked_in_turn() -> None:
    """The first keychain that knows a login wins."""
    first, second = (
        DockerKeychain([config(auths={key: {"auth": basic(f"{key}:x")}})]) for key in ("a", "b")
    )
    chain = Keychains(NoLogins(), first, second)
    names = [trio.run(chain.credential, host).username for host in ("a", "b", "c")]
    assert names == ["a", "b", ""]


def test_a_helper_is_asked_once(shm_path: Path) -> None:
    """However many repositories ask, and however many at once, a helper is run once in five minutes."""
    log = shm_path / "log"
    environ = helper(shm_path, "mine", f'echo x >> {log}; echo \'{{"Username":"u","Secret":"s"}}\'')
    keychain = DockerKeychain([config(credsStore="mine")], environ)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for repository in ("a", "b", "c"):
                nursery.start_soon(keychain.credential, "r.example", repository)
        assert log.read_text() == "x\n"

    trio.run(main)


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
        ("echo locked >&2; exit 1", r"get fails \(code 1\): locked"),
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
