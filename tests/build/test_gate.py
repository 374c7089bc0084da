"""A source policy: what is denied is never asked for, and no spelling gets around a rule."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from asyncbuild.build.fetch import FetchTools
from asyncbuild.build.gate import SourceGate
from asyncbuild.build.incoming import fetch_dockerfile, receive_context
from asyncbuild.cli import main
from asyncbuild.dockerfile.remote import GitReference, WebFile
from asyncbuild.errors import SourceDenied, UsageError
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from asyncbuild.plan.policy import SourcePolicy
from asyncbuild.store.store import Store
from support.builds import Recorder, World, add_busybox

BASE = "FROM registry.example/base/busybox\n"
SHA = "sha256:" + "a" * 64


@pytest.fixture
def world(shm_path: Path) -> World:
    """A place to build in."""
    world = World.below(shm_path)
    add_busybox(world.double)
    return world


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server whom nobody may ask."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server
        with pytest.raises(BlockingIOError):
            server.accept()


def gate(*rules: tuple[str, str], **updates: object) -> SourceGate:
    """A gate with rules of an action and a pattern; ``updates`` belong to CONVERT."""
    made = [
        {"action": action, "selector": {"identifier": pattern}}
        | ({"updates": updates} if action == "CONVERT" else {})
        for action, pattern in rules
    ]
    return SourceGate(SourcePolicy.parse(json.dumps({"rules": made}).encode(), "policy.json"))


@pytest.mark.parametrize(
    "line",
    [
        "COPY --from=other.example/a /x /x",
        "RUN --mount=from=other.example/a true",
        "ADD http://PORT/f /f",
        "ADD --checksum=" + SHA + " http://PORT/f /f",
        "ADD http://PORT/r.git /f",
        "FROM other.example/a\nCOPY --from=0 /bin /b",
    ],
)
def test_denied_before_any_request(world: World, listener: socket.socket, line: str) -> None:
    """Not even the other images of the build are asked for, and the error stands at the line."""
    dockerfile = BASE + line.replace("PORT", f"127.0.0.1:{listener.getsockname()[1]}")
    allowed = gate(
        ("DENY", "*"), ("ALLOW", "docker-image://registry.example/*"), ("ALLOW", "local://*")
    )
    with pytest.raises(SourceDenied, match="does not allow") as caught:
        world.run(dockerfile, "out:1", gate=allowed)
    assert "Dockerfile:2" in caught.value.render()
    assert not world.double.log


@pytest.mark.parametrize("flag", ["", "--checksum=" + SHA])
@pytest.mark.parametrize("place", ["f", "r.git", "r.git#" + "b" * 40])
def test_denied_behind_a_variable(
    world: World, listener: socket.socket, flag: str, place: str
) -> None:
    """It is known when the step is; a checksum and a commit's whole name need no request, but a judge."""
    if flag and place != "f":
        flag = "--checksum=" + "b" * 40
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/{place}"
    with pytest.raises(SourceDenied) as caught:
        world.run(
            f"{BASE}ARG U={url}\nADD {flag} $U /f",
            "out:1",
            gate=gate(("DENY", "http://*"), ("DENY", "git://*")),
        )
    assert "Dockerfile:3" in caught.value.render()


@pytest.mark.parametrize(
    "place", ["http://PORT/c.tar", "http://PORT/c.git", "DIRECTORY", "oci-layout://DIRECTORY"]
)
def test_denied_contexts(world: World, listener: socket.socket, place: str) -> None:
    """Named contexts, wherever they are."""
    place = place.replace("PORT", f"127.0.0.1:{listener.getsockname()[1]}")
    place = place.replace("DIRECTORY", str(world.context))
    only = gate(("DENY", "*"), ("ALLOW", "docker-image://*"), ("ALLOW", "local://context"))
    with pytest.raises(SourceDenied):
        world.run(BASE + "COPY --from=c / /c", "out:1", contexts={"c": place}, gate=only)
    assert not world.double.log


def test_denied_own_context(world: World) -> None:
    """The directory of the build."""
    with pytest.raises(SourceDenied, match="local://context"):
        world.run(BASE, "out:1", gate=gate(("DENY", "local://*")))


def test_denied_remote_context(shm_path: Path, listener: socket.socket) -> None:
    """A context and a Dockerfile behind URLs are fetched before there is a build."""
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    with Store.open(shm_path / "store") as store:
        tools = FetchTools(store, Recorder(), gate=gate(("DENY", "*")))
        for place in (WebFile(f"http://{host}/c.tar"), GitReference(f"http://{host}/r.git")):
            with pytest.raises(SourceDenied):
                trio.run(receive_context, place, tools, 0)
        with pytest.raises(SourceDenied):
            trio.run(fetch_dockerfile, WebFile(f"http://{host}/Dockerfile"), tools)


def test_the_option(
    shm_path: Path, listener: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--policy FILE`` holds for a remote context; a question does not take it."""
    policy = shm_path / "policy.json"
    policy.write_text('{"rules": [{"action": "DENY", "selector": {"identifier": "*"}}]}')
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/c.tar"
    store = f"--store={shm_path / 'store'}"
    assert main(["build", url, store, f"--policy={policy}"]) == 77
    assert "does not allow http://127.0.0.1" in capsys.readouterr().err
    policy.write_text("[]")
    assert main(["build", url, store, f"--policy={policy}"]) == 2
    assert main(["build", "--check", str(shm_path), f"--policy={policy}"]) == 2


def test_convert_pins_an_image(world: World) -> None:
    """The build uses the digest in the other repository; the name in the Dockerfile is not asked for."""
    digest = world.double.manifest("base/busybox", "latest").digest
    wanted = f"docker-image://registry.example/base/busybox@{digest}"
    rule = gate(("CONVERT", "docker-image://old.example/*"), identifier=wanted)
    world.run("FROM old.example/base:1\nLABEL a=b", "out:1", gate=rule)
    asked = [entry.path for entry in world.double.log if "/manifests/" in entry.path]
    assert any(str(digest) in path for path in asked)
    assert not any("/v2/base/manifests" in path for path in asked)


def test_convert_pins_a_file() -> None:
    """By its content, by a wildcard that leaves the URL alone; not against what the Dockerfile says."""
    rule = gate(("CONVERT", "https://a.example/*"), attrs={"http.checksum": SHA})
    file = WebFile("https://a.example/f")
    assert rule.file(file, None) == (file, Digest.parse(SHA))
    with pytest.raises(SourceDenied, match="pins"):
        rule.file(file, Digest.parse("sha256:" + "c" * 64))


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example/secret/f",
        "https://user:word@a.example/secret/f",
        "https://A.Example/secret/f",
        "https://a.example:443/secret/f",
        "https://a.example./secret/f",
        "https://a.example/%73ecret/f",
        "https://a.example/x/../secret/f",
        "https://a.example/x/%2e%2E/secret/f",
        "https://a.example/x%2f..%2fsecret/f",
        "https://a.example/./secret/f",
    ],
)
def test_no_spelling_gets_around(url: str) -> None:
    """Of URLs and of repositories."""
    with pytest.raises(SourceDenied):
        gate(("DENY", "https://a.example/secret/*")).file(WebFile(url), None)
    with pytest.raises(SourceDenied):
        gate(("DENY", "git://a.example/secret/*")).repository(GitReference(url))


@pytest.mark.parametrize(
    "url",
    [
        "https://good.example@evil.example/f",
        "https://evil.example/@good.example/f",
        "https://evil.example/f?https://good.example/",
        "https://evil.example#@good.example/",
    ],
)
def test_no_spelling_gets_in(url: str) -> None:
    """Nothing passes for an allowed host but itself."""
    only = gate(
        ("DENY", "*"), ("ALLOW", "https://good.example/*"), ("ALLOW", "git://good.example/*")
    )
    with pytest.raises(SourceDenied):
        only.file(WebFile(url), None)
    with pytest.raises(SourceDenied):
        only.repository(GitReference(url))


@pytest.mark.parametrize(
    "remote",
    [
        "git@a.example:r.git",
        "A.example:/r.git",
        "ssh://git@a.example:22/r.git",
        "git://a.example/r.git",
    ],
)
def test_one_repository(remote: str) -> None:
    """Every protocol's spelling is one identifier."""
    with pytest.raises(SourceDenied):
        gate(("DENY", "git://a.example/r.git")).repository(GitReference(remote))
    gate(("DENY", "*"), ("ALLOW", "git://a.example/r.git")).repository(GitReference(remote))


@pytest.mark.parametrize(
    "name",
    [
        "alpine",
        "docker.io/library/alpine:latest",
        "index.docker.io/library/alpine",
        "Docker.IO/library/alpine",
        "docker.io:443/library/alpine",
        "docker.io:0443/library/alpine",
    ],
)
def test_one_image(name: str) -> None:
    """Every spelling of an image is one identifier."""
    with pytest.raises(SourceDenied):
        gate(("DENY", "docker-image://docker.io/library/alpine:latest")).image(
            Reference.parse(name)
        )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"rules": [{}]}',
        b'{"rules": [{"action": "NO", "selector": {"identifier": "*"}}]}',
    ],
)
def test_no_policy(raw: bytes) -> None:
    """What cannot be read stops the build, it does not allow everything."""
    with pytest.raises(UsageError):
        SourcePolicy.parse(raw, "policy.json")
