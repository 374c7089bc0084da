"""Dockerfiles as people write them, built, pulled, unpacked, and run from their images.

Their bases are made here from this machine's Debian (``realworld/bases``) and stand under the names that the
Dockerfiles have, in a local registry. ``just realworld`` runs all of them; without ASYNCBUILD_REALWORLD only
those that need no packages.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support import bases
from support.pulled import pull, unpack
from support.registry import DockerRegistry, remove_tree
from support.running import run_image, running_image

pytestmark = pytest.mark.integration

HERE = Path(__file__).resolve().parent / "realworld"
TAGS = {
    "python": ("python", "3.11-slim-bookworm"),
    "node": ("node", "18-bookworm-slim"),
    "golang": ("golang", "1.19-bookworm"),
    "jdk": ("eclipse-temurin", "17-jdk"),
    "gcc": ("gcc", "12-bookworm"),
}
"""The directories below ``realworld/bases``, and the image that each stands for."""

NAMES = [path.parent.name for path in sorted(HERE.glob("*/run.json"))]
ALL = bool(os.environ.get("ASYNCBUILD_REALWORLD"))
_IMAGES = re.compile(r"(?m)^(FROM |ARG BASE=)((?:--\S+ )*)([a-z-]+:)")


def recipe(name: str) -> Mapping[str, Any]:
    """What a directory's ``run.json`` says."""
    found: Mapping[str, Any] = json.loads((HERE / name / "run.json").read_text())
    return found


CHOSEN = [name for name in NAMES if ALL or recipe(name).get("cheap")]


@pytest.fixture(scope="module")
def store(session_path: Path) -> Path:
    """The store that all of them share, as on one machine."""
    return session_path / "realworld-store"


@pytest.fixture(scope="module")
def make_base(registry: DockerRegistry, store: Path) -> Callable[[str], None]:
    """Pushes an image that Dockerfiles name, once; it is built with what is tested here."""
    made: set[str] = set()

    def make(image: str) -> None:
        if image in made:
            return
        made.add(image)
        if image == "busybox":
            bases.busybox_image().push(registry, "hub/busybox", "1.36")
            return
        if image == "debian":
            bases.debian_image().push(registry, "hub/debian", "bookworm-slim")
            return
        make("debian")
        directory, tag = next((d, t) for d, (name, t) in TAGS.items() if name == image)
        base = f"BASE={registry.host}/hub/debian:bookworm-slim"
        reference = f"{registry.host}/hub/{image}:{tag}"
        build(HERE / "bases" / directory, reference, store, ["--build-arg", base])

    return make


def build(
    context: Path,
    reference: str,
    store: Path,
    arguments: list[str],
    environ: Mapping[str, str] | None = None,
) -> None:
    """Build and push with the command line."""
    command = [sys.executable, "-m", "asyncbuild", "build", "--tag", reference]
    command += ["--store", str(store), "--progress", "plain", *arguments, str(context)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=context,
        env={**os.environ, **(environ or {})},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.parametrize("name", CHOSEN)
def test_realworld(
    name: str,
    registry: DockerRegistry,
    store: Path,
    make_base: Callable[[str], None],
    shm_path: Path,
) -> None:
    """It builds, and what is in the image runs and does what it is for."""
    said = recipe(name)
    context = HERE / name
    dockerfile = shm_path / "Dockerfile"
    text = (context / "Dockerfile").read_text()
    for image in {match[3].rstrip(":") for match in _IMAGES.finditer(text)}:
        make_base(image)
    dockerfile.write_text(_IMAGES.sub(rf"\g<1>\g<2>{registry.host}/hub/\g<3>", text))
    (shm_path / "Dockerfile.dockerignore").write_text(ignore_file(context))
    reference = f"{registry.host}/realworld/{name}:latest"
    arguments = ["--file", str(dockerfile), *said.get("args", [])]
    build(context, reference, store, arguments, said.get("environ"))
    pulled = pull(reference, shm_path)
    root = unpack(pulled, shm_path)
    config = pulled.configuration["config"]
    for field, value in said.get("config", {}).items():
        assert config.get(field) == value, field
    for secret in said.get("nowhere", []):
        assert secret not in json.dumps(pulled.configuration)
        assert secret.encode() not in b"".join(
            p.read_bytes() for p in root.rglob("*") if is_file(p)
        )
    assert [path for path in said.get("absent", []) if os.path.lexists(f"{root}{path}")] == []
    assert [path for path in said.get("present", []) if not os.path.exists(f"{root}{path}")] == []
    assert [list(root.glob(p)) for p in said.get("nothing_like", []) if list(root.glob(p))] == []
    if "prints" in said:
        assert run_image(root, config) == said["prints"]
    if "serve" in said:
        assert served(root, config, said["serve"]["path"]) == said["serve"]["answer"]
    for platform, machine in said.get("machines", {}).items():
        build(context, reference, store, [*arguments, "--platform", platform])
        place = shm_path / platform.replace("/", "-")
        place.mkdir()
        program = unpack(pull(reference, place), place) / said["program"].lstrip("/")
        assert struct.unpack_from("<H", program.read_bytes(), 18) == (machine,)
    remove_tree(root)


def ignore_file(context: Path) -> str:
    """The context's ignore file; what tells us how to run it is none of the image's business."""
    own = context / ".dockerignore"
    return (own.read_text() if own.exists() else "") + "\nrun.json\n"


def is_file(path: Path) -> bool:
    """A regular file, links not followed."""
    return path.is_file() and not path.is_symlink()


def served(root: Path, config: Mapping[str, Any], path: str) -> str:
    """What the image's service answers on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with running_image(root, config, {"PORT": port}) as line:
        assert line, "the service ended"
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                    text: str = answer.read().decode()
                    return text
            except urllib.error.URLError as error:
                # it has said that it is there, and may still be about to listen
                if time.monotonic() > deadline or not isinstance(
                    error.reason, ConnectionRefusedError
                ):
                    raise
                time.sleep(0.02)


def test_there_are_twenty() -> None:
    """Every directory says how it is run, and there are enough of them."""
    directories = {path.name for path in HERE.iterdir() if path.is_dir()} - {"bases"}
    assert directories == set(NAMES)
    assert len(NAMES) >= 20
    assert all(recipe(name)["why"] for name in NAMES)
