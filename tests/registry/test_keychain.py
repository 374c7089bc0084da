"""The keychain of a command, whole."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import RegistryUnavailable
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.cloud import Question
from asyncbuild.registry.keychain import SOURCE_NAMES, Asker, standard_keychain
from asyncbuild.testing.faults import Hang, Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_server import serving
from support.proxy import forwarding


def document(user: str, *hosts: str) -> str:
    """A document with one login for some hosts."""
    auth = base64.b64encode(f"{user}:x".encode()).decode()
    return json.dumps({"auths": {host: {"auth": auth} for host in hosts}})


def test_the_order(shm_path: Path) -> None:
    """Files that are named, DOCKER_AUTH_CONFIG, docker's file, the place itself."""
    (shm_path / "named.json").write_text(document("named", "a.example"))
    (shm_path / "config.json").write_text(document("docker", "a.example", "b.example", "c.example"))
    environ = {
        "DOCKER_CONFIG": str(shm_path),
        "DOCKER_AUTH_CONFIG": document("environment", "a.example", "b.example"),
        "GITHUB_TOKEN": "token",
    }
    keychain = standard_keychain(environ, "/nonexistent", files=[str(shm_path / "named.json")])
    hosts = ("a.example", "b.example", "c.example", "ghcr.io", "d.example")
    found = [trio.run(keychain.credential, host, "team/app").username for host in hosts]
    assert found == ["named", "environment", "docker", "token", ""]


def test_sources_can_be_left_out() -> None:
    """Only those that are named are asked."""
    environ = {"GITHUB_TOKEN": "token"}
    chosen = [name for name in SOURCE_NAMES if name != "github"]
    without = standard_keychain(environ, "/nonexistent", names=chosen)
    assert trio.run(without.credential, "ghcr.io") == ANONYMOUS
    only = standard_keychain(environ, "/nonexistent", names=["github"])
    assert trio.run(only.credential, "ghcr.io") == Credential("token", "token")


def test_questions_go_over_the_network() -> None:
    """Status and body come back; a service of this machine's host is asked without a proxy, briefly."""
    double = RegistryDouble()
    double.faults.add(
        Rule(Respond(201, b"said"), "POST", "/x"), Rule(Hang(), "GET", "/silent", times=None)
    )

    async def main() -> None:
        async with serving(double) as host, forwarding() as proxy:
            ask = Asker({"HTTP_PROXY": proxy.url, "NO_PROXY": ""})
            question = Question("POST", f"http://{host}/x", (("A", "b"),), b"body", local=True)
            reply = await ask(question)
            assert (reply.status, reply.body) == (201, b"said")
            assert double.log[0].headers["a"] == "b"
            assert double.log[0].headers["content-length"] == "4"
            with pytest.raises(RegistryUnavailable, match="in time"):
                await ask(Question("GET", f"http://{host}/silent", local=True))
            with pytest.raises(RegistryUnavailable):
                await ask(Question("GET", "http://127.0.0.1:1/", local=True))
            assert proxy.asked == []
            name = f"http://somewhere.invalid:{host.rpartition(':')[2]}/y"
            await ask(Question("GET", name))
            assert proxy.asked == [f"GET {name}"]

    trio.run(main)
