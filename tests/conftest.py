"""Fixtures: scratch space in memory, real registries, and base images pushed to them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import bases
from support.images import push_index
from support.own_image import OwnImage, own_image
from support.registry import (
    DockerRegistry,
    Login,
    make_tls,
    remove_tree,
    running_registry,
)
from support.sources import WebServer, running_web_server

# How long an example takes says something about the machine and its neighbours, not about us.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def _scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="asyncbuild-test-", dir="/dev/shm"))
    yield path
    remove_tree(path)


@pytest.fixture
def shm_path() -> Iterator[Path]:
    """A fresh directory in memory, removed after the test."""
    yield from _scratch()


@pytest.fixture(scope="session")
def session_path() -> Iterator[Path]:
    """A directory in memory that lives as long as the whole run."""
    yield from _scratch()


@pytest.fixture(scope="session")
def registry(session_path: Path) -> Iterator[DockerRegistry]:
    """A docker-registry that anyone may use, over plain HTTP."""
    with running_registry(session_path / "registry") as running:
        yield running


@pytest.fixture(scope="session")
def web(session_path: Path) -> Iterator[WebServer]:
    """A web server for files and git repositories, over plain HTTP."""
    with running_web_server(session_path / "web") as running:
        yield running


@pytest.fixture(scope="session")
def auth_registry(session_path: Path) -> Iterator[DockerRegistry]:
    """A docker-registry that asks for a user and a password (basic authentication)."""
    login = Login("builder", "a-passw0rd only for tests")
    with running_registry(session_path / "auth-registry", login=login) as running:
        yield running


@pytest.fixture(scope="session")
def auth_docker_config(auth_registry: DockerRegistry, session_path: Path) -> Path:
    """A DOCKER_CONFIG directory that holds the login of ``auth_registry``."""
    return auth_registry.write_docker_config(session_path / "docker-config")


@pytest.fixture(scope="session")
def tls_registry(session_path: Path) -> Iterator[DockerRegistry]:
    """A docker-registry over HTTPS, certified by an authority of its own."""
    with running_registry(
        session_path / "tls-registry", tls=make_tls(session_path / "tls")
    ) as running:
        yield running


@pytest.fixture(scope="session")
def busybox_base(registry: DockerRegistry) -> str:
    """The busybox base's reference in ``registry`` (OCI media types)."""
    bases.busybox_image().push(registry, "base/busybox")
    return f"{registry.host}/base/busybox:latest"


@pytest.fixture(scope="session")
def docker_base(registry: DockerRegistry) -> str:
    """The busybox base with Docker's media types."""
    bases.busybox_image("docker").push(registry, "base/busybox-docker")
    return f"{registry.host}/base/busybox-docker:latest"


@pytest.fixture(scope="session")
def multiarch_base(registry: DockerRegistry) -> str:
    """An index of busybox for amd64 and of two images that are only named arm and arm64."""
    push_index(registry, bases.multi_platform_images(), "base/multi")
    return f"{registry.host}/base/multi:latest"


@pytest.fixture(scope="session")
def many_layer_base(registry: DockerRegistry) -> str:
    """Busybox under a dozen small layers."""
    bases.many_layer_image().push(registry, "base/many")
    return f"{registry.host}/base/many:latest"


@pytest.fixture(scope="session")
def small_bases(
    busybox_base: str, docker_base: str, multiarch_base: str, many_layer_base: str
) -> Mapping[str, str]:
    """The references of all bases that are quick to make, by their names."""
    return {
        "busybox": busybox_base,
        "busybox-docker": docker_base,
        "multi": multiarch_base,
        "many": many_layer_base,
    }


@pytest.fixture(scope="session")
def debian_base(registry: DockerRegistry) -> str:
    """Debian's minbase, in which apt-get works; slow to make the first time on a machine."""
    bases.debian_image().push(registry, "base/debian")
    return f"{registry.host}/base/debian:latest"


@pytest.fixture(scope="session")
def pod_image(registry: DockerRegistry, debian_base: str, session_path: Path) -> OwnImage:
    """The tool's own image, the root of pods; slow to make when its Dockerfile or requirements changed."""
    scratch = session_path / "own-image"
    scratch.mkdir()
    return own_image(registry, debian_base, scratch)
