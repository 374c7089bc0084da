"""Places over real sockets: certificates of both sides, mirrors of Docker Hub, a registry that is not there."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import RegistryError
from asyncbuild.registry.places import Files
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_server import serving
from support.commands import asyncbuild_here, environment, told
from support.registry import DockerRegistry, Tls, make_tls

pytestmark = pytest.mark.integration
NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module")
def tls(session_path: Path) -> Tls:
    """A certificate that serves both sides, and its authority."""
    return make_tls(session_path / "places-tls")


def mutual(tls: Tls) -> ssl.SSLContext:
    """A server's side that wants to know who the client is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def hosts_toml(tls: Tls) -> str:
    """What containerd's file says of both certificates."""
    return f'ca = "{tls.ca_file}"\nclient = [["{tls.certificate}", "{tls.key}"]]'


@pytest.mark.parametrize("form", ["docker", "containerd", "none", "authority only"])
def test_certificates_of_both_sides(form: str, tls: Tls, shm_path: Path) -> None:
    """The files in ``certs.d`` open a registry that trusts only who it knows, and nothing else does."""
    double = RegistryDouble()
    blob = double.add_blob("a", b"bytes")

    async def main() -> None:
        async with serving(double, tls=mutual(tls)) as host:
            place = shm_path / host
            place.mkdir()
            if form in ("docker", "authority only"):
                (place / "ca.crt").symlink_to(tls.ca_file)
            if form == "docker":
                (place / "me.cert").symlink_to(tls.certificate)
                (place / "me.key").symlink_to(tls.key)
            if form == "containerd":
                (place / "hosts.toml").write_text(hosts_toml(tls))
            settings = RegistrySettings(
                files=Files((str(shm_path),)), policy=RetryPolicy(attempts=1)
            )
            async with Registries(settings) as registries:
                client = registries.client(host)
                if form in ("docker", "containerd"):
                    assert await client.get_blob("a", blob) == b"bytes"
                    return
                with pytest.raises(RegistryError):
                    await client.get_blob("a", blob)

    trio.run(main)
    assert len(double.log) == (form in ("docker", "containerd"))


def inspected(
    *options: str | Path, image: str = "docker.io/base/busybox", env: Mapping[str, str]
) -> str:
    """The digest that an image has where it is looked for; what was told on stderr is added."""
    done = asyncbuild_here("inspect", "--json", *options, image, env=env)
    assert done.returncode == 0, told(done)
    return str(json.loads(done.stdout)["digest"])


@pytest.fixture
def busybox_digest(registry: DockerRegistry, busybox_base: str) -> str:
    """The digest of the base."""
    _, headers, _ = registry.call(
        "HEAD",
        "/v2/base/busybox/manifests/latest",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    return headers["docker-content-digest"]


def test_docker_hub_by_way_of_mirrors(
    registry: DockerRegistry, busybox_digest: str, shm_path: Path
) -> None:
    """On the command line, in registries.conf, in hosts.toml: a mirror that is dead, then one that lives."""
    env = environment(HOME=str(shm_path))
    words = [f"--registry-mirror=docker.io=http://{place}" for place in (NOBODY, registry.host)]
    assert inspected(*words, env=env) == busybox_digest
    mirrors = "".join(
        f'[[registry.mirror]]\nlocation = "{place}"\ninsecure = true\n'
        for place in (NOBODY, registry.host)
    )
    conf = shm_path / "registries.conf"
    conf.write_text(f'[[registry]]\nprefix = "docker.io"\n{mirrors}')
    assert inspected("--registries-conf", conf, env=env) == busybox_digest
    named = {**env, "CONTAINERS_REGISTRIES_CONF": str(conf)}
    assert inspected(env=named) == busybox_digest
    directory = shm_path / "certs.d" / "somewhere.invalid"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        f'[host."http://{NOBODY}"]\n[host."http://{registry.host}"]\ncapabilities = ["resolve"]'
    )
    mark = registry.mark()
    text = asyncbuild_here(
        "inspect",
        "--raw",
        "--certs-dir",
        directory.parent,
        "somewhere.invalid/base/busybox",
        env=env,
    )
    asked = [request.path for request in registry.requests(mark)]
    assert asked == ["/v2/base/busybox/manifests/latest?ns=somewhere.invalid"], told(text)


def test_a_location_of_another_name(
    registry: DockerRegistry, busybox_digest: str, shm_path: Path
) -> None:
    """registries.conf moves a prefix to a path of another registry."""
    conf = shm_path / "registries.conf"
    conf.write_text(
        f'[[registry]]\nprefix = "somewhere.invalid/team"\nlocation = "{registry.host}/base"\n'
        "insecure = true\n"
    )
    env = environment(HOME=str(shm_path), CONTAINERS_REGISTRIES_CONF=str(conf))
    assert inspected(image="somewhere.invalid/team/busybox", env=env) == busybox_digest
