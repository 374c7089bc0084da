"""A source policy: what is denied is never asked for, and no spelling gets around a rule."""

from __future__ import annotations

import gzip
import io
import json
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from asyncbuild.build.fetch import FetchTools
from asyncbuild.build.gate import SourceGate
from asyncbuild.build.incoming import fetch_dockerfile, receive_context
from asyncbuild.cli import main
from asyncbuild.dockerfile.remote import GitReference, WebFile
from asyncbuild.errors import FetchFailed, SourceDenied, UsageError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.plan.policy import SourcePolicy
from asyncbuild.store.store import Store
from support.builds import HOST, Recorder, World, add_busybox
from support.images import Node
from support.sources import Page, WebServer, archive

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
    "trigger",
    [
        "COPY --from=other.example/a /x /x",
        "RUN --mount=from=other.example/a,target=/m true",
        "ADD http://PORT/f /f",
        "ADD --checksum=" + SHA + " http://PORT/f /f",
        "ADD http://PORT/r.git /f",
        "ADD http://PORT/r.git#" + "b" * 40 + " /f",
    ],
)
@pytest.mark.parametrize("used", ["FROM", "stage"])
def test_denied_in_a_trigger(
    world: World, listener: socket.socket, trigger: str, used: str
) -> None:
    """What a base's ONBUILD brings is judged as if it stood here: the base is allowed, its words are not."""
    port = f"127.0.0.1:{listener.getsockname()[1]}"
    world.run(f"{BASE}ONBUILD {trigger.replace('PORT', port)}\n", "base/triggers:latest")
    world.double.log.clear()
    dockerfile = f"FROM {HOST}/base/triggers\n"
    if used == "stage":
        dockerfile = f"FROM {HOST}/base/triggers AS x\n{BASE}COPY --from=x /bin/busybox /b\n"
    allowed = gate(("DENY", "*"), ("ALLOW", f"docker-image://{HOST}/*"), ("ALLOW", "local://*"))
    with pytest.raises(SourceDenied, match="does not allow") as caught:
        world.run(dockerfile, "out:1", gate=allowed)
    assert "Dockerfile:1" in caught.value.render()
    assert {entry.host for entry in world.double.log} <= {HOST}
    assert not world.double.asked("PUT", "/manifests/")


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


def files_of(world: World) -> dict[str, bytes]:
    """Names and contents in the top layer of what was pushed, as Python's tarfile reads it."""
    image = world.double.manifest("out", "1")
    assert isinstance(image, Manifest)
    raw = gzip.decompress(world.double.blobs["out"][image.layers[-1].digest])
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        found = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read() for name, file in found.items() if file is not None}


@pytest.mark.parametrize("flag", ["", "--checksum="])
@pytest.mark.parametrize("behind", ["", "ARG U={}\n"])
def test_convert_a_file(world: World, web: WebServer, flag: str, behind: str) -> None:
    """Another URL is fetched, the first is never asked for; the file keeps the name of the first."""
    web.pages["/old/tool.txt"] = Page(b"old")
    web.pages["/new/tool.txt.signed"] = Page(b"new")
    web.requests.clear()
    rule = gate(("CONVERT", f"{web.base}/old/*"), identifier=f"{web.base}/new/$1.signed")
    url = f"{web.base}/old/tool.txt"
    checksum = f"{flag}{Digest.of(b'new')} " if flag else ""
    used = "$U" if behind else url
    world.run(f"{BASE}{behind.format(url)}ADD {checksum}{used} /got/\n", "out:1", gate=rule)
    assert files_of(world) == {"got/tool.txt": b"new"}
    assert [path for _, path, _ in web.requests] == ["/new/tool.txt.signed"]


def test_convert_a_file_and_pin_it(world: World, web: WebServer) -> None:
    """What is fetched instead must have the content that the policy says, and may be used itself."""
    web.pages["/b"] = Page(b"new")
    line = f"{BASE}ADD {web.base}/a /got\n"
    for pinned, code in ((b"new", 0), (b"other", 69)):
        updates = {
            "identifier": f"{web.base}/b",
            "attrs": {"http.checksum": str(Digest.of(pinned))},
        }
        rule = gate(("CONVERT", f"{web.base}/a"), **updates)
        if code:
            with pytest.raises(FetchFailed, match=str(Digest.of(pinned))):
                world.run(line, "out:1", gate=rule)
        else:
            world.run(line, "out:1", gate=rule)
            assert files_of(world) == {"got": b"new"}
    web.requests.clear()
    both = SourceGate(
        SourcePolicy(
            (
                *gate(("CONVERT", f"{web.base}/a"), identifier=f"{web.base}/b").policy.rules,
                *gate(("DENY", f"{web.base}/b")).policy.rules,
            )
        )
    )
    with pytest.raises(SourceDenied, match="/b"):
        world.run(line, "out:1", gate=both)
    assert not web.requests


def test_convert_a_context_and_a_dockerfile(shm_path: Path, web: WebServer) -> None:
    """Those are files from URLs, too."""
    web.pages["/good/Dockerfile"] = Page(b"FROM scratch\n")
    web.pages["/good/c.tar"] = Page(archive([Node("inside", content=b"x")]))
    web.requests.clear()
    rule = gate(("CONVERT", f"{web.base}/bad/*"), identifier=f"{web.base}/good/$1")
    with Store.open(shm_path / "store") as store:
        tools = FetchTools(store, Recorder(), gate=rule)
        text = trio.run(fetch_dockerfile, WebFile(f"{web.base}/bad/Dockerfile"), tools)
        received = trio.run(receive_context, WebFile(f"{web.base}/bad/c.tar"), tools, 0)
        assert text.read_bytes() == b"FROM scratch\n"
        assert (received.context / "inside").read_bytes() == b"x"
    assert {path for _, path, _ in web.requests} == {"/good/Dockerfile", "/good/c.tar"}


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
        "registry.hub.docker.com/library/alpine",
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
