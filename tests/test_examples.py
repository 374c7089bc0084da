"""The examples, built by the command line, pulled by skopeo, unpacked by umoci, and run from their images."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from support.pulled import Pulled, inspect_config, pull, unpack
from support.registry import DockerRegistry
from support.running import run_image, running_image

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def store(session_path: Path) -> Path:
    """The store that the examples share."""
    return session_path / "examples-store"


def build(name: str, registry: DockerRegistry, store: Path, *arguments: str) -> str:
    """Build and push an example; returns its reference."""
    reference = f"{registry.host}/examples/{name}:test"
    command = [sys.executable, "-m", "asyncbuild", "build", "--tag", reference]
    command += ["--store", str(store), "--progress", "plain", *arguments, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return reference


def unpacked(reference: str, directory: Path) -> tuple[Pulled, Path]:
    """The pushed image as independent tools see it: in a layout, and as a root."""
    pulled = pull(reference, directory)
    return pulled, unpack(pulled, directory)


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_hello(registry: DockerRegistry, busybox_base: str, store: Path, shm_path: Path) -> None:
    """The script runs from the image, with the image's variables."""
    reference = build("hello", registry, store, "--build-arg", f"BASE={busybox_base}")
    pulled, root = unpacked(reference, shm_path)
    assert run_image(root, pulled.configuration["config"]).startswith("Hello, world, from Linux")
    assert len(pulled.manifest["layers"]) == 2


def test_metadata_only(registry: DockerRegistry, busybox_base: str, shm_path: Path) -> None:
    """No layer is asked for, and the base's layers are in the image."""
    mark = registry.mark()
    arguments = ("--build-arg", f"BASE={busybox_base}", "--build-arg", "VERSION=7")
    reference = build("metadata-only", registry, shm_path / "store", *arguments)
    requests = registry.requests(mark)
    pulled, root = unpacked(reference, shm_path)
    layers = {layer["digest"] for layer in pulled.manifest["layers"]}
    fetched = {request.path.split("/")[-1] for request in requests if request.method == "GET"}
    assert layers & fetched == set()
    config = inspect_config(reference)["config"]
    assert config["Labels"]["org.opencontainers.image.version"] == "7"
    assert run_image(root, config) == "version 7 in production\n"


def test_static_c(registry: DockerRegistry, debian_base: str, store: Path, shm_path: Path) -> None:
    """The program is alone in its image, and runs."""
    reference = build("static-c", registry, store, "--build-arg", f"BASE={debian_base}")
    pulled, root = unpacked(reference, shm_path)
    assert [path.name for path in root.iterdir()] == ["greet"]
    assert run_image(root, pulled.configuration["config"]) == "Hello, world.\n"


def test_webservice(
    registry: DockerRegistry, debian_base: str, store: Path, shm_path: Path
) -> None:
    """The service answers from its image; compilers are not in it, the report of its tests is."""
    arguments = ("--build-arg", f"BASE={debian_base}", "--build-arg", "VERSION=1.2.3")
    reference = build("webservice", registry, store, *arguments)
    pulled, root = unpacked(reference, shm_path)
    assert "OK" in (root / "opt/tally/share/test-report.txt").read_text()
    assert not (root / "usr/bin/gcc").exists()
    config = pulled.configuration["config"]
    assert (config["User"], list(config["ExposedPorts"])) == ("tally:tally", ["8000/tcp"])
    place = {"HOST": "127.0.0.1", "PORT": str(free_port())}
    with running_image(root, config, place) as line:
        assert line == f"tally listens on port {place['PORT']}\n"
        address = f"http://127.0.0.1:{place['PORT']}"
        with urllib.request.urlopen(f"{address}/count", b"to be or not to be", 10) as answer:
            assert json.load(answer) == {"be": 2, "to": 2, "not": 1, "or": 1}
        with urllib.request.urlopen(f"{address}/", timeout=10) as answer:
            assert b"tally 1.2.3" in answer.read()
