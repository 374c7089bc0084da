"""Pushing to registries with TLS and with logins, and what a person reads where that does not work."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from support import bases
from support.commands import asyncbuild_here, context, environment, told
from support.pulled import Pulled, pull, read_tree, unpack
from support.registry import DockerRegistry, Login

pytestmark = pytest.mark.integration

BUILDS = "FROM {base}\nRUN echo made > /made\nCOPY --chmod=600 a /a\n"


@pytest.fixture(scope="module")
def auth_base(auth_registry: DockerRegistry) -> str:
    """The busybox base in the registry that wants a login."""
    bases.busybox_image().push(auth_registry, "base/busybox")
    return f"{auth_registry.host}/base/busybox:latest"


@pytest.fixture(scope="module")
def tls_base(tls_registry: DockerRegistry) -> str:
    """The busybox base in the registry with TLS."""
    bases.busybox_image().push(tls_registry, "base/busybox")
    return f"{tls_registry.host}/base/busybox:latest"


def build(
    place: Path, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A build in ``place`` with a store there."""
    return asyncbuild_here("build", "--store", "store", *words, "context", cwd=place, env=env)


def trusting(registry: DockerRegistry, directory: Path) -> list[str]:
    """Skopeo's option to trust a registry's authority."""
    authorities = directory / "authorities"
    authorities.mkdir()
    shutil.copy(registry.ca_file, authorities / "ca.crt")
    return [f"--src-cert-dir={authorities}"]


def check(pulled: Pulled, done: subprocess.CompletedProcess[bytes], directory: Path) -> None:
    """What was pulled back is what was built: its digest, and its files as umoci unpacks them."""
    assert pulled.digest == done.stdout.decode().strip()
    tree = read_tree(unpack(pulled, directory))
    assert tree["/made"].content == b"made\n"
    assert str(tree["/a"]) == "file 0600 0:0 b'a\\n'"
    assert "/bin/busybox" in tree


def test_tls(shm_path: Path, tls_registry: DockerRegistry, tls_base: str) -> None:
    """``--registry-ca`` names who vouches for the registry; pull, mount and push go over TLS."""
    context(shm_path, BUILDS.format(base=tls_base), {"a": "a\n"})
    name = f"{tls_registry.host}/team/app:1"
    done = build(
        shm_path, "-t", name, "--registry-ca", f"{tls_registry.host}={tls_registry.ca_file}"
    )
    assert done.returncode == 0, told(done)
    check(pull(name, shm_path, trusting(tls_registry, shm_path)), done, shm_path)


def test_tls_by_the_environment(
    shm_path: Path, tls_registry: DockerRegistry, tls_base: str
) -> None:
    """SSL_CERT_FILE is heard, as by every program of OpenSSL."""
    context(shm_path, f"FROM {tls_base}\nENV A=b\n")
    env = environment(SSL_CERT_FILE=str(tls_registry.ca_file))
    done = build(shm_path, "-t", f"{tls_registry.host}/team/environment:1", env=env)
    assert done.returncode == 0, told(done)


def test_certificate_that_nobody_vouches_for(
    shm_path: Path, tls_registry: DockerRegistry, tls_base: str
) -> None:
    """Exit code 69, at once, with both ways out; ``--insecure`` is one of them."""
    context(shm_path, f"FROM {tls_base}\nENV A=b\n")
    done = build(shm_path)
    assert done.returncode == 69, told(done)
    text = done.stderr.decode()
    assert "certificate is not trusted" in text
    assert "--registry-ca" in text
    assert "--insecure" in text
    done = build(shm_path, "--insecure", tls_registry.host)
    assert done.returncode == 0, told(done)


@pytest.mark.parametrize(("prefix", "first"), [("", b"\x16"), ("http://", b"GET")])
def test_plain_http_said_by_name(shm_path: Path, prefix: str, first: bytes) -> None:
    """``--insecure http://HOST`` asks for no TLS; a bare name is asked for it first (0x16: a handshake)."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"127.0.0.1:{server.getsockname()[1]}"
        asked = threading.Thread(target=_refuse, args=(server, heard), daemon=True)
        asked.start()
        words = ("--insecure", f"{prefix}{name}", f"{name}/team/app:1")
        done = asyncbuild_here("inspect", *words, cwd=shm_path)
        server.shutdown(socket.SHUT_RDWR)
        asked.join()
    assert done.returncode != 0
    assert heard[0].startswith(first), heard


def _refuse(server: socket.socket, heard: list[bytes]) -> None:
    """Note what each connection begins with, and answer 404 in plain HTTP."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(3))
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def test_login(
    shm_path: Path, auth_registry: DockerRegistry, auth_base: str, auth_docker_config: Path
) -> None:
    """The login in DOCKER_CONFIG serves the pull, the mount and the push."""
    context(shm_path, BUILDS.format(base=auth_base), {"a": "a\n"})
    name = f"{auth_registry.host}/team/app:1"
    env = environment(DOCKER_CONFIG=str(auth_docker_config))
    done = build(shm_path, "-t", name, env=env)
    assert done.returncode == 0, told(done)
    login = f"--src-creds={auth_registry.username}:{auth_registry.password}"
    check(pull(name, shm_path, ["--src-tls-verify=false", login]), done, shm_path)
    assert auth_registry.password not in told(done)


def test_no_login(shm_path: Path, auth_base: str) -> None:
    """Exit code 77, and what to do."""
    context(shm_path, f"FROM {auth_base}\nENV A=b\n")
    done = build(shm_path, env=environment(DOCKER_CONFIG=str(shm_path)))
    assert done.returncode == 77, told(done)
    assert f"login {auth_base.partition('/')[0]}" in done.stderr.decode()


def test_wrong_password(shm_path: Path, auth_registry: DockerRegistry, busybox_base: str) -> None:
    """Exit code 77 before the command has run; who was refused is told, the password is not."""
    wrong = DockerRegistry(
        auth_registry.host, auth_registry.log, login=Login("builder", "not the password")
    )
    config = wrong.write_docker_config(shm_path / "docker")
    context(shm_path, f"FROM {busybox_base}\nRUN sleep 1000\n")
    env = environment(DOCKER_CONFIG=str(config))
    done = build(shm_path, "-t", f"{auth_registry.host}/team/wrong:1", env=env)
    assert done.returncode == 77, told(done)
    text = done.stderr.decode()
    assert "builder" in text
    assert "not the password" not in text


def test_nobody_listens(shm_path: Path) -> None:
    """Exit code 69, the line of the base, the host and the reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    context(shm_path, f"FROM {host}/base\nENV A=b\n")
    done = build(shm_path)
    assert done.returncode == 69, told(done)
    assert b"context/Dockerfile:1:1" in done.stderr
    assert host.encode() in done.stderr
    assert b"Connection refused" in done.stderr


def test_host_that_does_not_exist(shm_path: Path) -> None:
    """Exit code 69, without a second try."""
    context(shm_path, "FROM none.invalid/base\nENV A=b\n")
    done = build(shm_path)
    assert done.returncode == 69, told(done)
    assert b"no such host" in done.stderr


def test_damaged_docker_config(shm_path: Path) -> None:
    """Exit code 66 and the file's name."""
    (shm_path / "config.json").write_text("{")
    context(shm_path, "FROM scratch\nENV A=b\n")
    done = build(shm_path, env=environment(DOCKER_CONFIG=str(shm_path)))
    assert done.returncode == 66, told(done)
    assert f"{shm_path}/config.json is not JSON" in done.stderr.decode()


def test_two_registries_at_once(
    shm_path: Path,
    registry: DockerRegistry,
    tls_registry: DockerRegistry,
    busybox_base: str,
) -> None:
    """One build, two registries: the base's layers are sent to the one that does not have them."""
    context(shm_path, BUILDS.format(base=busybox_base), {"a": "a\n"})
    names = [f"{registry.host}/both/app:1", f"{tls_registry.host}/both/app:1"]
    trust = f"{tls_registry.host}={tls_registry.ca_file}"
    words = ["-t", names[0], "-t", names[1], "--registry-ca", trust, "--metadata-file", "meta"]
    done = build(shm_path, *words)
    assert done.returncode == 0, told(done)
    (shm_path / "tls").mkdir()
    check(pull(names[0], shm_path), done, shm_path)
    options = trusting(tls_registry, shm_path)
    check(pull(names[1], shm_path / "tls", options), done, shm_path / "tls")
    counts = json.loads((shm_path / "meta").read_text())["asyncbuild.layers"]
    assert counts["mounted"] == 1
    assert counts["pushed"] == 2 * 2 + 1
