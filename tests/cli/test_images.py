"""push, copy, inspect, index create, login and logout, against docker-registry, read by skopeo."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.commands import asyncbuild_here, context, environment, told
from support.nginx import proxied
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration


def skopeo(*words: str) -> bytes:
    """Run skopeo; its output."""
    done = subprocess.run(["skopeo", *words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def raw(reference: str, *options: str) -> bytes:
    """A manifest as skopeo fetches it."""
    return skopeo(
        "inspect", "--raw", *(options or ("--tls-verify=false",)), f"docker://{reference}"
    )


def run(*words: str | Path, code: int = 0, **options: Any) -> str:
    """Run a command, and see its exit code; what it says on stdout, or on stderr if it fails."""
    done = asyncbuild_here(*words, **options)
    assert done.returncode == code, told(done)
    return (done.stderr if code else done.stdout).decode()


def digest(text: str) -> str:
    """The digest that a command prints, alone on its line."""
    (line,) = text.splitlines()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", line)
    return line


@pytest.fixture(scope="module")
def home(session_path: Path) -> Mapping[str, str]:
    """An environment without anybody's logins."""
    directory = session_path / "images-home"
    directory.mkdir()
    return environment(HOME=str(directory), DOCKER_CONFIG=str(directory / "docker"))


def test_copy_with_all_platforms(
    registry: DockerRegistry,
    tls_registry: DockerRegistry,
    multiarch_base: str,
    home: Mapping[str, str],
) -> None:
    """From one registry to two names of another: byte for byte, and again without sending anything."""
    names = [f"{tls_registry.host}/copied/multi:{tag}" for tag in ("1", "latest")]
    trust = ["--registry-ca", f"{tls_registry.host}={tls_registry.ca_file}"]
    printed = digest(run("copy", *trust, multiarch_base, *names, env=home))
    theirs = raw(multiarch_base)
    options = ("--tls-verify=false",)
    assert raw(names[0], *options) == raw(names[1], *options) == theirs
    assert len(json.loads(theirs)["manifests"]) == 3
    mark = tls_registry.mark()
    assert digest(run("copy", *trust, multiarch_base, names[0], env=home)) == printed
    asked = tls_registry.requests(mark)
    assert {request.method for request in asked} == {"HEAD"}


def test_copy_of_one_platform(
    registry: DockerRegistry, multiarch_base: str, home: Mapping[str, str]
) -> None:
    """One platform is an image, several are an index; one that is not there is told."""
    name = f"{registry.host}/copied/one:1"
    run("copy", "--platform", "linux/amd64", multiarch_base, name, env=home)
    assert "layers" in json.loads(raw(name))
    run("copy", "--platform", "linux/amd64,linux/arm64", multiarch_base, name, env=home)
    assert len(json.loads(raw(name))["manifests"]) == 2
    said = run("copy", "--platform", "linux/mips64le", multiarch_base, name, env=home, code=2)
    assert "there is no image for linux/mips64le" in said


def test_copy_mounts(registry: DockerRegistry, busybox_base: str, home: Mapping[str, str]) -> None:
    """Within a registry no blob moves."""
    mark = registry.mark()
    run("copy", busybox_base, f"{registry.host}/mounted/busybox:1", env=home)
    asked = registry.requests(mark)
    assert [
        item for item in asked if item.method in ("PUT", "PATCH") and "/blobs/" in item.path
    ] == []
    assert [item for item in asked if item.method == "GET" and "/blobs/" in item.path] == []


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_push_of_a_file(
    kind: str, registry: DockerRegistry, busybox_base: str, shm_path: Path, home: Mapping[str, str]
) -> None:
    """What skopeo wrote is pushed, and skopeo finds the same layers and configuration again."""
    place = shm_path / "image"
    source = ("--src-tls-verify=false", f"docker://{busybox_base}")
    skopeo("copy", *source, f"{kind}:{place}:example.test/app:1")
    name = f"{registry.host}/pushed/{kind}:1"
    printed = digest(run("push", place, "-t", name, env=home))
    found = raw(name)
    original = skopeo("inspect", "--config", "--tls-verify=false", f"docker://{busybox_base}")
    pushed = skopeo("inspect", "--config", "--tls-verify=false", f"docker://{name}")
    assert json.loads(pushed)["rootfs"] == json.loads(original)["rootfs"]
    if kind != "docker-archive":
        assert found == raw(busybox_base)
    layout = shm_path / "again"
    skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}")
    assert (
        printed.removeprefix("sha256:")
        in {path.name for path in (layout / "blobs/sha256").iterdir()}
        or kind == "docker-archive"
    )


def test_push_of_our_own_layout(
    registry: DockerRegistry, shm_path: Path, home: Mapping[str, str]
) -> None:
    """A build's archive knows its names: it is pushed there; from the standard input, too."""
    path = context(shm_path, "FROM scratch\nLABEL a=b\nCOPY Dockerfile /d\n")
    name = f"{registry.host}/pushed/own:1"
    archive = shm_path / "app.tar"
    built = run(
        "build", "--store", shm_path / "store", "-t", name, "-o", f"type=oci,dest={archive}", path,
        env=home,
    )  # fmt: skip
    assert digest(run("push", archive, env=home)) == digest(built)
    raw(name)
    other = f"{registry.host}/pushed/stdin:1"
    done = asyncbuild_here("push", "-", "-t", other, stdin=archive.read_bytes(), env=home)
    assert done.returncode == 0, told(done)
    assert raw(other) == raw(name)


def test_push_errors(shm_path: Path, registry: DockerRegistry, home: Mapping[str, str]) -> None:
    """What is missing is said, with the exit code of its kind."""
    assert "cannot be read" in run(
        "push", shm_path / "none", "-t", "x.example/a", env=home, code=66
    )
    path = context(shm_path, "FROM scratch\nLABEL a=b\n")
    archive = shm_path / "app.tar"
    run("build", "--store", shm_path / "store", "-o", f"type=oci,dest={archive}", path, env=home)
    assert "nothing says where to push" in run("push", archive, env=home, code=2)
    name = f"{registry.host}/pushed/none"
    said = run("push", archive, "--image", "x", "-t", name, env=home, code=66)
    assert "holds no image x" in said
    digest_of_nothing = f"sha256:{'0' * 64}"
    said = run("push", "--store", shm_path / "store", digest_of_nothing, env=home, code=66)
    assert "the store kept no image" in said
    said = run("push", "--store", shm_path / "none", digest_of_nothing, env=home, code=66)
    assert "there is no store" in said
    assert "a tag is pushed to" in run(
        "push", archive, "-t", f"{name}@{digest_of_nothing}", env=home, code=2
    )


def test_a_failed_push_is_finished(
    registry: DockerRegistry, busybox_base: str, shm_path: Path, home: Mapping[str, str]
) -> None:
    """A proxy forbids the tag: exit code 73 and a command, which finishes it once that is permitted."""
    path = context(shm_path, f"FROM {busybox_base}\nRUN echo hi > /hi\nCOPY Dockerfile /d\n")
    forbid = (
        "location ~ /manifests/1$ { limit_except GET HEAD { deny all; } proxy_pass http://%s; }"
    )
    store = shm_path / "store"
    with proxied(shm_path / "nginx", registry.host, forbid % registry.host) as host:
        name = f"{host}/failed/app:1"
        said = run("build", "--store", store, "-t", name, path, env=home, code=73)
    command = re.search(r"`asyncbuild (push [^`]+)`", said)
    assert command is not None, said
    there = f"{registry.host}/failed/app:1"
    assert digest(run(*command[1].split(), "-t", there, env=home)) in command[1]
    assert json.loads(raw(there))["layers"]
    config = json.loads(skopeo("inspect", "--config", "--tls-verify=false", f"docker://{there}"))
    assert [entry["created_by"] for entry in config["history"]][-2:][0].startswith("RUN")


def test_a_proxy_with_small_requests(
    registry: DockerRegistry, shm_path: Path, home: Mapping[str, str]
) -> None:
    """A proxy lets 4 MiB through at a time: a blob of more goes in pieces, built and copied."""
    path = context(shm_path, "FROM scratch\nCOPY big /big\n")
    (path / "big").write_bytes(b"".join(number.to_bytes(4, "big") for number in range(3 << 20)))
    with proxied(shm_path / "nginx", registry.host, "client_max_body_size 4m;") as host:
        name = f"{host}/small/app:1"
        compression = "type=image,push=true,compression=uncompressed"
        store = shm_path / "store"
        built = digest(
            run("build", "--store", store, "-t", name, "-o", compression, path, env=home)
        )
        assert digest(run("copy", name, f"{host}/small/copied:1", env=home)) == built
    manifest = json.loads(raw(f"{registry.host}/small/app:1"))
    assert manifest["layers"][0]["size"] > 12 << 20
    assert raw(f"{registry.host}/small/copied:1") == raw(f"{registry.host}/small/app:1")


def test_inspect(
    registry: DockerRegistry, multiarch_base: str, busybox_base: str, home: Mapping[str, str]
) -> None:
    """For people, for programs, and the bytes as they are."""
    text = run("inspect", multiarch_base, env=home)
    assert "linux/arm64" in text
    assert "Layers:" in text
    assert run("inspect", "--raw", multiarch_base, env=home).encode() == raw(multiarch_base)
    one = json.loads(
        run("inspect", "--json", "--platform", "linux/amd64", multiarch_base, env=home)
    )
    assert one["image"]["platform"] == "linux/amd64"
    assert len(one["manifests"]) == 3
    chosen = run("inspect", "--raw", "--platform", "linux/arm64", multiarch_base, env=home)
    assert "layers" in json.loads(chosen)
    config = run("inspect", "--config", busybox_base, env=home).encode()
    assert config == skopeo(
        "inspect", "--config", "--raw", "--tls-verify=false", f"docker://{busybox_base}"
    )
    assert "not found" in run("inspect", f"{registry.host}/none:1", env=home, code=66)


def test_inspect_of_a_file(busybox_base: str, shm_path: Path, home: Mapping[str, str]) -> None:
    """A file is shown as a registry's image is."""
    place = shm_path / "image.tar"
    skopeo("copy", "--src-tls-verify=false", f"docker://{busybox_base}", f"oci-archive:{place}")
    there = json.loads(run("inspect", "--json", busybox_base, env=home))
    here = json.loads(run("inspect", "--json", place, env=home))
    assert here["image"] == there["image"]
    assert "Platform:  linux/" in run("inspect", place, env=home)


def test_index_create(
    registry: DockerRegistry,
    multiarch_base: str,
    busybox_base: str,
    many_layer_base: str,
    home: Mapping[str, str],
) -> None:
    """Images that were pushed by digest become one name; a second call adds to it."""
    entries = json.loads(raw(multiarch_base))["manifests"]
    others = [item for item in entries if item["platform"]["architecture"] != "amd64"]
    repository = multiarch_base.rpartition(":")[0]
    parts = [f"{repository}@{entry['digest']}" for entry in others]
    name = f"{registry.host}/merged/app:1"
    dry = run("index", "create", "--dry-run", "-t", name, *parts, env=home)
    assert registry.call("HEAD", "/v2/merged/app/manifests/1")[0] == 404
    note = ["--annotation", "a=b", "--annotation", "manifest-descriptor[linux/arm64]:c=d"]
    digest(run("index", "create", *note, "-t", name, *parts, env=home))
    index = json.loads(raw(name))
    wanted = [item["digest"] for item in others]
    assert [item["digest"] for item in index["manifests"]] == wanted
    assert [item["digest"] for item in json.loads(dry)["manifests"]] == wanted
    assert index["annotations"] == {"a": "b"}
    assert {"c": "d"} in [item.get("annotations") for item in index["manifests"]]
    run("index", "create", "--append", "-t", name, busybox_base, env=home)
    index = json.loads(raw(name))
    assert len(index["manifests"]) == len(others) + 1
    assert index["annotations"] == {"a": "b"}
    skopeo("inspect", "--tls-verify=false", "--override-arch=amd64", f"docker://{name}")
    assert "nothing says where" in run("index", "create", busybox_base, env=home, code=2)
    assert "two images are for linux/amd64" in run(
        "index", "create", "--append", "-t", name, many_layer_base, env=home, code=2
    )


def test_login(
    auth_registry: DockerRegistry,
    busybox_base: str,
    shm_path: Path,
    home: Mapping[str, str],
) -> None:
    """A wrong password is not kept; a right one is, is used, and is forgotten."""
    env = {**home, "DOCKER_CONFIG": str(shm_path / "docker")}
    words = ["login", auth_registry.host, "-u", auth_registry.username]
    name = f"{auth_registry.host}/after/login:1"
    said = run(*words, "--password-stdin", stdin="wrong\n", env=env, code=77)
    assert "is the password right?" in said
    assert not (shm_path / "docker").exists()
    assert "asyncbuild login" in run("copy", busybox_base, name, env=env, code=77)
    said = run(*words, "--password-stdin", stdin=f"{auth_registry.password}\n", env=env)
    assert said == f"login kept in {shm_path}/docker/config.json\n"
    run("copy", busybox_base, name, env=env)
    assert "removed" in run("logout", auth_registry.host, env=env)
    assert "no login" in run("logout", auth_registry.host, env=env)
    run("inspect", name, env=env, code=77)


def test_login_elsewhere(
    registry: DockerRegistry, auth_registry: DockerRegistry, shm_path: Path, home: Mapping[str, str]
) -> None:
    """--auth-file and REGISTRY_AUTH_FILE name another file; a registry that asks nobody is told so."""
    file = shm_path / "auth.json"
    user = ["-u", auth_registry.username, "-p", auth_registry.password]
    run("login", auth_registry.host, *user, "--auth-file", file, env=home)
    assert auth_registry.host in json.loads(file.read_text())["auths"]
    inspect = ["inspect", f"{auth_registry.host}/none:1"]
    run(*inspect, env=home, code=77)
    run(*inspect, "--auth-file", file, env=home, code=66)
    run(*inspect, env={**home, "REGISTRY_AUTH_FILE": str(file)}, code=66)
    other = {**home, "REGISTRY_AUTH_FILE": str(shm_path / "other.json")}
    done = asyncbuild_here("login", registry.host, "-u", "x", "-p", "y", env=other)
    assert b"it was not checked" in done.stderr
    assert registry.host in (shm_path / "other.json").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["login", "r.example", "-p", "x"], "name the user"),
        (["login", "r.example", "-u", "a:b", "-p", "x"], "name the user"),
        (["login", "r.example", "-u", "a"], "where does the password come from"),
        (["login", "r.example", "-u", "a", "--password-stdin"], "the password is empty"),
        (["login", "r.example", "-u", "a", "-p", "x", "--password-stdin"], "one of them"),
        (["login", "a b", "-u", "a", "-p", "x"], "is no registry"),
        (["copy", "UPPER", "a.example/b"], "lower case"),
        (["inspect", "--raw", "--json", "a"], "one of them"),
        (["index", "create", "--annotation", "x", "-t", "a", "b"], "write KEY=VALUE"),
        (["index", "create", "--annotation", "y:x=1", "-t", "a", "b"], "is not index or"),
        (["copy", "--registry-mirror", "x", "a", "b"], "write HOST=PLACE"),
        (["copy", "--registry-transfers", "0", "a", "b"], "from 1 on"),
        (["copy", "--registry-client-cert", "x", "a", "b"], "write HOST=CERT,KEY"),
    ],
)
def test_usage(words: list[str], said: str, home: Mapping[str, str]) -> None:
    """Exit code 2, and what is wrong."""
    assert said in run(*words, env=home, code=2)
