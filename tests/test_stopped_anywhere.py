"""Wherever RUN is executed, or none at all: a build that is stopped leaves nothing that runs, no upload and no
mount, and a store that the next build uses. Transfers are the same everywhere, and are stopped where it costs least.

Root's overlay, in all phases: cli/test_killed.py and cli/test_interrupt.py. Here are the other ways, each first
stopped by SIGTERM and then by SIGKILL in the same phase; a pod is killed whole, as its node does it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from asyncbuild.testing.faults import Hang, Rule
from asyncbuild.testing.registry_server import serving
from support.builds import Belongings, GatedDouble, add_busybox, ended, store_faults, watching
from support.commands import COMMAND, context, environment
from support.own_image import OwnImage
from support.pod import WITHOUT_CHROOT, Pod
from support.pod_profile import CAPABILITIES
from support.users import User

pytestmark = pytest.mark.integration

PATIENCE = 180.0
"""Seconds after which a build that does not end fails its test."""
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
RUN = """\
FROM HOST/base/busybox
COPY file /file
RUN --mount=type=secret,id=how sh /run/secrets/how; echo made > /made; touch -d @1700000000 /made
"""
NO_RUN = "FROM HOST/base/busybox\nCOPY file /file\n"
PULL = ("GET", "/v2/base/busybox/blobs/@BASE", 100_000)
LAYER = ("PUT|PATCH", "/v2/app/blobs/uploads/", None)
MANIFEST = ("PUT", "/v2/app/manifests/", None)
SLEEP = "(setsid sleep 1000 &); echo rea''dy; sleep 1000\n"

Hold = tuple[str, str, int | None]
"""The method and the path of requests that hang, after so many bytes of the answer; ``@BASE`` is the base's
layer.
"""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A phase: what the registry does not answer, or else the RUN sleeps."""

    way: str
    hold: Hold | None


CASES = {
    "chroot: RUN": Stopped("chroot", None),
    "chroot: push": Stopped("chroot", LAYER),
    "in place: RUN": Stopped("inplace", None),
    "in place: push": Stopped("inplace", LAYER),
    "rootless: pull": Stopped("rootless", PULL),
    "rootless: push": Stopped("rootless", LAYER),
    "rootless: manifest": Stopped("rootless", MANIFEST),
    "none: push": Stopped("none", LAYER),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is built: a user of this machine, or a pod."""

    directory: Path
    user: User | None = None
    pod: Pod | None = None

    @property
    def store(self) -> Path:
        """The store, seen from here."""
        return self.directory / "store" if self.user is None else self.user.store

    @contextlib.contextmanager
    def words(self, way: str, host: str) -> Iterator[tuple[list[str], Mapping[str, str]]]:
        """What starts a build, and its environment; a pod that it is in has ended afterwards."""
        line = ["build", "-t", f"{host}/app:1", "--isolation", way, "--progress", "plain"]
        line += ["--secret", f"id=how,src={self.directory}/how", str(self.directory / "context")]
        if self.user is not None:
            yield self.user.words(*COMMAND, *line), self.user.environment(**EPOCH)
        elif self.pod is not None:
            entry = self.pod.image.config["Entrypoint"]
            with self.pod.prepared(*entry, *line, env=EPOCH) as words:
                yield words, environment()


@pytest.fixture
def place(stopped: Stopped, request: pytest.FixtureRequest, shm_path: Path) -> Place:
    """The place of a case, with an empty store."""
    if stopped.way in ("rootless", "none"):
        return Place(shm_path, user=User.below(shm_path))
    image: OwnImage = request.getfixturevalue("pod_image")
    (shm_path / "store").mkdir()
    volumes = {str(shm_path): shm_path, "/var/lib/asyncbuild": shm_path / "store"}
    capabilities = WITHOUT_CHROOT if stopped.way == "inplace" else tuple(CAPABILITIES)
    return Place(shm_path, pod=Pod(image, shm_path, volumes, capabilities=capabilities))


@dataclass(frozen=True, slots=True)
class Scene:
    """A case on its stage."""

    stopped: Stopped
    place: Place
    double: GatedDouble
    host: str
    base: str

    @property
    def hold(self) -> list[Rule]:
        """The faults that make the phase last."""
        if self.stopped.hold is None:
            return []
        method, path, after = self.stopped.hold
        real = path.replace("@BASE", self.base)
        return [Rule(Hang(after), name, real) for name in method.split("|")]

    async def is_there(self, child: trio.Process) -> None:
        """Return when the build is in the phase."""
        if self.hold:
            held = [(rule.method, rule.path) for rule in self.hold]
            await self.double.wait(
                lambda: any(entry.status for which in held for entry in self.double.asked(*which))
            )
            return
        assert child.stderr is not None
        said = b""
        while b"| ready" not in said:
            more = await child.stderr.receive_some()
            assert more, said.decode()
            said += more

    async def stop(self, number: int) -> int:
        """Begin a build, stop it in the phase, and see that all of it ends; its exit code."""
        (self.place.directory / "how").write_text("true\n" if self.hold else SLEEP)
        self.double.faults.add(*self.hold)
        self.double.log.clear()
        with contextlib.ExitStack() as stack:
            with self.place.words(self.stopped.way, self.host) as (words, environ):
                child = await trio.lowlevel.open_process(
                    words,
                    env=environ,
                    cwd=self.place.directory,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL if self.hold else subprocess.PIPE,
                )
                await self.is_there(child)
                handles = stack.enter_context(watching(child.pid))
                child.send_signal(number)
                code = await child.wait()
            assert await trio.to_thread.run_sync(ended, handles, PATIENCE)
        self.double.faults.clear()
        return code

    def under_way(self) -> set[str]:
        """The uploads that a layer's bytes were being sent to."""
        paths = [entry.path for name in ("PUT", "PATCH") for entry in self.double.asked(name)]
        found = {match[1] for path in paths if (match := re.search("/uploads/([^/?]+)", path))}
        assert found or self.stopped.hold is not LAYER
        return found

    async def build(self) -> None:
        """Build to the end."""
        (self.place.directory / "how").write_text("true\n")
        with self.place.words(self.stopped.way, self.host) as (words, environ):
            done = await trio.run_process(
                words,
                env=environ,
                cwd=self.place.directory,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("stopped", CASES.values(), ids=CASES)
def test_stopped(stopped: Stopped, place: Place) -> None:
    """By SIGTERM with its own exit code, its uploads taken back; by SIGKILL; then it is built, and cleared up."""
    before = Belongings.now()

    async def main() -> None:
        double = GatedDouble()
        base = add_busybox(double).layers[0].digest
        async with serving(double) as host:
            dockerfile = NO_RUN if stopped.way == "none" else RUN
            path = context(place.directory, dockerfile.replace("HOST", host), {"file": "content\n"})
            os.utime(path / "file", (1_700_000_000, 1_700_000_000))
            scene = Scene(stopped, place, double, host, base)
            with trio.fail_after(PATIENCE):
                assert await scene.stop(signal.SIGTERM) == 143
                assert scene.under_way() & set(double.uploads) == set()
                assert await scene.stop(signal.SIGKILL) == -signal.SIGKILL
                assert "app" not in double.tags
                await scene.build()
            assert "1" in double.tags["app"]

    trio.run(main)
    assert Belongings.now().more_than(before) == []
    assert store_faults(place.store) == []
    assert list((place.store / "tmp").iterdir()) == []
