"""The head start of a build, seen by registries: the same requests, sooner, and none where they are not meant."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncbuild.cli import arguments
from asyncbuild.cli.headstart import prepare
from asyncbuild.cli.kaniko_flags import EXECUTOR, read_flags
from asyncbuild.cli.kaniko_headstart import begin
from asyncbuild.registry.headstart import HeadStart
from support import bases
from support.commands import asyncbuild, context, environment, told
from support.registry import DockerRegistry

PREPARE = """
import contextlib, json, os, sys
from asyncbuild.cli import arguments
from asyncbuild.cli.headstart import prepare
from asyncbuild.cli.kaniko_flags import EXECUTOR, read_flags
from asyncbuild.cli.kaniko_headstart import begin
from asyncbuild.registry.headstart import HeadStart
options = arguments.parser().parse_args(sys.argv[1:])
options.closing = contextlib.ExitStack()
prepare(options, os.environ)
early = options.head_start._asked[0]
print(early.wait().status)
print(json.dumps([name for name in ("trio", "httpx", "httpcore", "h11") if name in sys.modules]))
"""


@pytest.mark.integration
def test_the_first_answer_is_there_before_trio_is(
    shm_path: Path, registry: DockerRegistry, busybox_base: str
) -> None:
    """What a head start needs of the program is imported in a moment, what takes long is not."""
    place = context(shm_path, f"FROM {busybox_base}\nENV A=b\n")
    words = ["build", "--insecure", f"http://{registry.host}", "--store", "store", str(place)]
    ran = subprocess.run(
        [sys.executable, "-c", PREPARE, *words], capture_output=True, text=True, check=True
    )
    status, imported = ran.stdout.splitlines()
    assert status == "200"
    assert json.loads(imported) == []


@pytest.mark.integration
@pytest.mark.parametrize(
    ("base", "documents"), [("busybox", 2), ("busybox-docker", 2), ("multi", 3)]
)
def test_the_requests_are_those_of_any_build(
    shm_path: Path, registry: DockerRegistry, small_bases: dict[str, str], base: str, documents: int
) -> None:
    """With a head start and without, each document of the base is asked for once, warm only its tag; and one
    upload is begun: the configuration's.
    """
    place = context(shm_path, f"FROM {small_bases[base]}\nENV A=b\n")

    def built(store: str, scheme: str) -> tuple[bytes, list[str]]:
        before = registry.mark()
        words = ["--insecure", f"{scheme}{registry.host}", "--store", store]
        name = f"{registry.host}/headstart/{base}:{store}"
        env = environment(SOURCE_DATE_EPOCH="1700000000")
        done = asyncbuild("build", *words, "-t", name, place, env=env, cwd=shm_path)
        assert done.returncode == 0, told(done)
        requests = registry.requests(before)
        begun = [item for item in requests if item.method == "POST" and "?" not in item.path]
        assert len(begun) == 1, begun
        return done.stdout, sorted(item.path for item in requests if item.method == "GET")

    digest, asked = built("early", "http://")
    assert len(asked) == documents, asked
    assert built("usual", "") == (digest, asked)
    again, asked_again = built("early", "http://")
    assert again == digest
    assert len(asked_again) == 1
    assert set(asked_again) < set(asked)


@pytest.mark.integration
def test_an_upload_that_was_begun_is_not_left_behind(
    shm_path: Path, registry: DockerRegistry, busybox_base: str
) -> None:
    """What is wrong with other inputs is found later: the registry is told that nothing will come."""
    place = context(shm_path, f"FROM {busybox_base}\nENV A=b\n")
    before = registry.mark()
    words = [
        "--insecure",
        f"http://{registry.host}",
        "--store",
        "store",
        "--secret",
        "id=a,src=none",
    ]
    done = asyncbuild("build", *words, "-t", f"{registry.host}/left/a:1", place, cwd=shm_path)
    assert done.returncode == 66, told(done)
    changing = [item for item in registry.requests(before) if item.method in ("POST", "DELETE")]
    assert [item.method for item in changing] == ["POST", "DELETE"]
    assert all(item.path.startswith("/v2/left/a/blobs/uploads/") for item in changing)


@contextlib.contextmanager
def nobody() -> Iterator[tuple[socket.socket, str]]:
    """A place that takes connections, and a registry's name for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        yield listener, f"127.0.0.1:{listener.getsockname()[1]}"


def prepared(
    directory: Path, text: str, *words: str, environ: dict[str, str] | None = None
) -> argparse.Namespace:
    """The options of a build of the Dockerfile ``text``, prepared."""
    place = context(directory, text)
    options = arguments.parser().parse_args(["build", *words, str(place)])
    with contextlib.ExitStack() as options.closing:
        prepare(options, environ or {})
    return options


def is_called(listener: socket.socket) -> bool:
    """Whether a connection comes."""
    try:
        listener.accept()[0].close()
    except TimeoutError:
        return False
    return True


def test_a_registry_is_called(shm_path: Path) -> None:
    """The other tests' own test: without what they add, there is a connection."""
    with nobody() as (listener, name):
        options = prepared(shm_path, f"FROM {name}/a\n", "--insecure", f"http://{name}")
        assert is_called(listener)
        options.head_start.close()


@pytest.mark.parametrize(
    "words",
    [
        ("--policy", "policy.json"),
        ("--verify-key", "cosign.pub"),
        ("--cache-dir", "."),
        ("--registries-conf", "/dev/null"),
    ],
)
def test_a_build_that_looks_elsewhere_first(shm_path: Path, words: tuple[str, ...]) -> None:
    """A policy may forbid the source, a key may ask for its signature: nothing is asked before."""
    with nobody() as (listener, name):
        options = prepared(shm_path, f"FROM {name}/a\n", "--insecure", f"http://{name}", *words)
        assert not is_called(listener)
        assert getattr(options, "head_start", None) is None


@pytest.mark.parametrize("insecure", [(), ("--insecure", "{name}")])
def test_a_registry_whose_scheme_is_to_be_found_out(
    shm_path: Path, insecure: tuple[str, ...]
) -> None:
    """It is tried in the usual way."""
    with nobody() as (listener, name):
        words = [word.format(name=name) for word in insecure]
        prepared(shm_path, f"FROM {name}/a\n", "-t", f"{name}/b", *words)
        assert not is_called(listener)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--cache-from", "{name}/cache"), ["cache"]),
        (("--cache-from", "type=registry,ref={name}/cache:main,scope=other"), ["other"]),
        (("--cache-repo", "{name}/cache:main"), ["main"]),
        (("--cache-from", "type=local,src=x", "--cache-to", "{name}/cache"), []),
        (("--cache-repo", "{name}/cache:main", "--no-cache"), []),
    ],
)
def test_the_indexes_of_caches_are_asked_for(
    shm_path: Path, words: tuple[str, ...], asked: list[str]
) -> None:
    """Those that the build will read, and no others."""
    with nobody() as (_, name):
        given = [word.format(name=name) for word in words]
        text = "FROM scratch\nCOPY . /\n"
        options = prepared(shm_path, text, "--insecure", f"http://{name}", *given)
        targets = [early.ask.target for early in options.head_start._asked]
        options.head_start.close()
    assert targets == [f"/v2/cache/manifests/{tag}" for tag in asked]


@pytest.mark.integration
def test_a_cached_build_asks_for_an_index_once(
    shm_path: Path, registry: DockerRegistry, small_bases: dict[str, str]
) -> None:
    """With a head start it is the same request as without."""
    place = context(shm_path, f"FROM {small_bases['busybox']}\nWORKDIR /made\n")
    cache = f"{registry.host}/headstart/cache"

    def built(store: str, scheme: str) -> list[str]:
        before = registry.mark()
        words = ["--insecure", f"{scheme}{registry.host}", "--store", store, "--cache-repo", cache]
        name = f"{registry.host}/headstart/cached:{store}"
        done = asyncbuild("build", *words, "-t", name, place, cwd=shm_path)
        assert done.returncode == 0, told(done)
        gets = [item.path for item in registry.requests(before) if item.method == "GET"]
        return [path for path in gets if path.startswith("/v2/headstart/cache/manifests/c")]

    built("first", "http://")
    assert built("early", "http://") == ["/v2/headstart/cache/manifests/cache"]
    assert built("usual", "") == ["/v2/headstart/cache/manifests/cache"]


def test_a_proxy_is_not_gone_around(shm_path: Path) -> None:
    """Where requests go through a proxy, nothing is sent past it."""
    with nobody() as (_, proxy):
        environ = {"HTTPS_PROXY": f"http://{proxy}", "HTTP_PROXY": f"http://{proxy}"}
        host = "registry.invalid"
        text = f"FROM {host}/a\n"
        options = prepared(shm_path, text, "--insecure", f"http://{host}", environ=environ)
        assert options.head_start.log == []
        assert options.head_start._asked == []


def test_what_the_store_has_is_not_asked_for(shm_path: Path) -> None:
    """A base by digest that is here: the registry is not even asked."""
    digest = hashlib.sha256(b"kept").hexdigest()
    blob = shm_path / "store" / "blobs" / "sha256" / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"kept")
    with nobody() as (_, name):
        words = ("--insecure", f"http://{name}", "--store", str(shm_path / "store"))
        options = prepared(shm_path, f"FROM {name}/a@sha256:{digest}\n", *words)
        assert options.head_start._asked == []
        options.head_start.close()


def test_stages_and_scratch_are_no_registries(shm_path: Path) -> None:
    """FROM of a stage, of scratch and of an argument calls nobody; a fault is the build's to tell."""
    text = "ARG base=x\nFROM scratch AS one\nFROM one\nFROM $base\n"
    assert prepared(shm_path, text).head_start.log == []


def test_a_fault_is_for_the_build_to_tell(shm_path: Path) -> None:
    """A Dockerfile that cannot be planned has its inputs read, and no request sent."""
    options = prepared(shm_path, "FROM\n")
    assert options.inputs.dockerfile == b"FROM\n"
    assert options.head_start.log == []


def test_a_mirror_is_asked_as_the_build_will_ask(shm_path: Path) -> None:
    """``--registry-mirror``: the first place is the mirror."""
    with nobody() as (listener, name):
        mirror = ("--registry-mirror", f"docker.io=http://{name}")
        options = prepared(shm_path, "FROM busybox\n", *mirror)
        assert is_called(listener)
        options.head_start.close()


def kaniko_begins(directory: Path, name: str, *words: str) -> HeadStart | None:
    """The head start of kaniko's flags for a Dockerfile whose base is at ``name``."""
    place = context(directory, f"FROM {name}/a\n")
    flags = ["--context", f"dir://{place}", "--skip-tls-verify-registry", name, *words]
    return begin(read_flags(EXECUTOR, flags), {})


def test_kaniko_calls_registries_too(shm_path: Path) -> None:
    """By its own flags: here of a registry that speaks TLS, whatever its certificate."""
    with nobody() as (listener, name):
        start = kaniko_begins(shm_path, name, "--no-push")
        assert is_called(listener)
        assert start is not None
        start.close()


@pytest.mark.parametrize(
    "words",
    [("--dryrun",), ("--cache-dir", "."), ("--isolation", "inplace"), ("--context-sub-path", "x")],
)
def test_kaniko_builds_without(shm_path: Path, words: tuple[str, ...]) -> None:
    """A plan, images that are here, `/` that will be changed, a Dockerfile that is not there."""
    with nobody() as (listener, name):
        assert kaniko_begins(shm_path, name, "--no-push", *words) is None
        assert not is_called(listener)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--cache", "--cache-repo", "{name}/kept"), ["kept/manifests/cache"]),
        (("--cache", "--destination", "{name}/app:1"), ["app/cache/manifests/cache"]),
        (("--cache", "--cache-repo", "oci:/kept"), []),
        (("--cache", "--cache-run-layers=false", "--cache-repo", "{name}/kept"), []),
        (("--cache-repo", "{name}/kept"), []),
    ],
)
def test_kaniko_asks_for_the_index_of_its_cache(
    shm_path: Path, words: tuple[str, ...], asked: list[str]
) -> None:
    """Of the repository that the build will look into, and only if it will."""
    with nobody() as (listener, name):
        start = kaniko_begins(
            shm_path, name, "--no-push", *(word.format(name=name) for word in words)
        )
        assert start is not None
        targets = [early.ask.target for early in start._asked]
        for _ in list(start._lines):
            assert is_called(listener)
        start.close()
    indexes = [target for target in targets if not target.startswith("/v2/a/")]
    assert indexes == [f"/v2/{path}" for path in asked]


@pytest.mark.integration
def test_kaniko_build_with_a_head_start(shm_path: Path, tls_registry: DockerRegistry) -> None:
    """Over TLS: the base's manifest and configuration are asked for once each."""
    bases.busybox_image().push(tls_registry, "base/busybox")
    place = context(shm_path, f"FROM {tls_registry.host}/base/busybox:latest\nENV A=b\n")
    words = ("--context", f"dir://{place}", "--destination", f"{tls_registry.host}/kaniko/early:1")
    trust = ("--registry-certificate", f"{tls_registry.host}={tls_registry.ca_file}")
    env = environment(XDG_CACHE_HOME=str(shm_path / "cache"))
    before = tls_registry.mark()
    done = asyncbuild("kaniko", *words, *trust, env=env)
    assert done.returncode == 0, told(done)
    asked = [item.path for item in tls_registry.requests(before) if item.method == "GET"]
    assert len(asked) == 2, asked
    before = tls_registry.mark()
    done = asyncbuild("kaniko", *words, *trust, "--cache", env=env)
    assert done.returncode == 0, told(done)
    asked = [item.path for item in tls_registry.requests(before) if item.method == "GET"]
    assert asked.count("/v2/kaniko/early/cache/manifests/cache") == 1, asked
