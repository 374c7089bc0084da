"""The examples where CI runs: in an ordinary pod, by chroot and in place, and as an ordinary user with many ids or
with one.

Those that install Debian's packages take minutes, and are built if ASYNCBUILD_EXAMPLES is ``all``
(``just examples-elsewhere``). A single id cannot: apt-get and dpkg want other users.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import told
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.pulled import pull, unpack
from support.registry import DockerRegistry
from support.running import run_image
from support.users import User

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WAYS = ("pod", "inplace", "rootless", "single")

Builder = Callable[..., bytes]
"""Builds an example by its name, with the words of a command line; what was printed."""


@pytest.fixture(params=WAYS, scope="module")
def build(request: pytest.FixtureRequest, registry: DockerRegistry, session_path: Path) -> Builder:
    """Who builds: a pod, or a user. Each has one store for all examples."""
    place = session_path / f"examples-{request.param}"
    place.mkdir()
    session_path.chmod(0o755)
    if request.param in ("pod", "inplace"):
        image: OwnImage = request.getfixturevalue("pod_image")
        (place / "store").mkdir()
        volumes = {"/workspace": EXAMPLES, "/var/lib/asyncbuild": place / "store"}
        read_only = frozenset({"/workspace"})
        pod = Pod(image, place, volumes, read_only_volumes=read_only)
        if request.param == "inplace":
            pod = dataclasses.replace(pod, capabilities=WITHOUT_CHROOT)
    else:
        user = User.below(place, subordinate=request.param == "rootless")

    def run(name: str, *words: str) -> bytes:
        line = ["build", "-t", f"{registry.host}/elsewhere/{name}:1", "--progress", "plain", *words]
        if request.param == "inplace":
            line += ["--isolation", "inplace"]
        if request.param in ("pod", "inplace"):
            done = pod.asyncbuild(*line, f"/workspace/{name}")
        else:
            done = user.asyncbuild(*line, EXAMPLES / name)
        assert done.returncode == 0, told(done)
        return done.stdout

    return run


def test_small_examples(
    build: Builder, registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """A script and its RUN; metadata alone."""
    base = ("--build-arg", f"BASE={busybox_base}")
    build("hello", *base)
    pulled = pull(f"{registry.host}/elsewhere/hello:1", shm_path)
    root = unpack(pulled, shm_path)
    assert run_image(root, pulled.configuration["config"]).startswith("Hello, world, from Linux")
    build("metadata-only", *base, "--build-arg", "VERSION=7")


if os.environ.get("ASYNCBUILD_EXAMPLES") == "all":

    @pytest.mark.parametrize("build", ["pod", "inplace", "rootless"], indirect=True, scope="module")
    def test_packages_and_compilers(
        build: Builder, registry: DockerRegistry, debian_base: str, shm_path: Path
    ) -> None:
        """Debian's package manager, a compiler, tests, users."""
        base = ("--build-arg", f"BASE={debian_base}")
        build("static-c", *base)
        build("webservice", *base, "--build-arg", "VERSION=1.2.3")
        pulled = pull(f"{registry.host}/elsewhere/webservice:1", shm_path)
        root = unpack(pulled, shm_path)
        assert "OK" in (root / "opt/tally/share/test-report.txt").read_text()
        assert pulled.configuration["config"]["User"] == "tally:tally"
