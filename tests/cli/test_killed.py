"""Killed at any moment (SIGKILL), a build leaves nothing that runs or is mounted, and all things usable.

Each phase of a build is recognised by what makes it that phase: a request that the registry holds, a file
that is there, a word of a command, or the file operation that would end it (`support.stopping`). The next
build, on the same store, caches and outputs, makes the image that a build on nothing makes.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from asyncbuild.testing.faults import Hang, Rule
from asyncbuild.testing.registry_server import serving
from support.bases import busybox_image, busybox_layer
from support.builds import (
    Belongings,
    GatedDouble,
    add_image,
    ended,
    store_faults,
    watching,
)
from support.commands import (
    COMMAND,
    asyncbuild_here,
    build_quietly,
    context,
    environment,
    told,
)
from support.images import Image, Layer, Node, make_tar
from support.scratch import scratch

pytestmark = pytest.mark.integration

PATIENCE = 40.0
STOPPING = Path(__file__).parent.parent / "support/stopping.py"
DOCKERFILE = """\
FROM HOST/base/busybox AS other
COPY file /other
FROM HOST/base/busybox
COPY file /file
RUN --mount=type=secret,id=how --mount=type=cache,target=/c \\
    sh /run/secrets/how; echo kept > /c/kept; echo made > /made; touch -d @1700000000 /made /c/kept
COPY --from=other /other /copied
"""
"""What a secret holds is no input of the cache: by it the command is held up, and no key is another one."""
WORDS = """\
--store store --secret id=how,src=how -t HOST/app:1 --push --progress plain
--cache-from type=registry,ref=HOST/cache/app:main --cache-from type=local,src=kept
--cache-to type=registry,ref=HOST/cache/app:main,mode=max --cache-to type=local,dest=kept,mode=max
--cache-mount-from HOST/ci/mounts --cache-mount-to HOST/ci/mounts
--cache-mount-from type=local,src=mounts --cache-mount-to type=local,dest=mounts
-o type=oci,dest=oci.tar -o type=docker,dest=docker.tar -o type=oci,dest=layout,tar=false context
"""


@dataclass(frozen=True, slots=True)
class Right:
    """What a build on nothing makes: the image's digest, and the digits of that of the RUN's layer."""

    digest: str
    layer: str


@dataclass(frozen=True, slots=True)
class Phase:
    """Where a build is killed.

    The registry ``hangs`` at requests like this (method, path; after so many bytes of the answer), or the
    process stops ``before`` such an operation (audit event, path), or the command does what ``how`` says;
    then the build ``says`` something, or files of the pattern ``leaves`` are there, with ``least`` bytes.
    ``@BASE`` and ``@LAYER`` stand for the digits of the digests of the base's layer and of the RUN's.
    """

    hangs: tuple[str, str] | None = None
    after: int | None = None
    before: tuple[str, str] | None = None
    how: str = ""
    says: bytes = b""
    leaves: str = ""
    least: int = 1


RENAME = "os.rename"
PHASES = {
    "resolving": Phase(("GET", "/v2/base/busybox/manifests/latest")),
    "downloading": Phase(("GET", "/blobs/sha256:@BASE"), 5000, leaves="store/tmp/*/*"),
    "unpacking": Phase(
        ("GET", "/blobs/sha256:@BASE"), 400_000, leaves="store/tmp/*/layer-*/fs/bin"
    ),
    "unpacked": Phase(before=(RENAME, "/layers/"), leaves="store/tmp/*/layer-*/facts.json"),
    "running": Phase(how="echo rea''dy; sleep 1000", says=b"ready", leaves="store/tmp/*/run-*"),
    "packing": Phase(
        how="truncate -s 8G /big; echo rea''dy",
        says=b"ready",
        leaves="store/tmp/*/blob-*",
        least=4096,  # the layers of COPYs are smaller, and the base's is unpacked
    ),
    "packed": Phase(before=(RENAME, "/blobs/sha256/@LAYER"), leaves="store/tmp/*/blob-*"),
    "pushing a layer": Phase(("PUT|PATCH", "/v2/app/blobs/uploads/")),
    "pushing the manifest": Phase(("PUT", "/v2/app/manifests/1")),
    "exporting an entry": Phase(("PUT", "/v2/cache/app/manifests/k-")),
    "exporting the index": Phase(("PUT", "/v2/cache/app/manifests/main")),
    "exporting a layer to a directory": Phase(
        before=(RENAME, "kept/blobs/sha256/@LAYER"), leaves="kept/tmp/*"
    ),
    "exporting an entry to a directory": Phase(
        before=(RENAME, "kept/results/"), leaves="kept/tmp/*"
    ),
    "saving a cache mount": Phase(("PUT", "/v2/ci/mounts/manifests/"), leaves="store/tmp/*/blob-*"),
    "saving a cache mount to a directory": Phase(
        before=(RENAME, "mounts/blobs/sha256/"), leaves="mounts/tmp/sha256-*"
    ),
    "writing an OCI archive": Phase(before=(RENAME, "/oci.tar$"), leaves=".oci.tar.*.partial"),
    "writing a docker archive": Phase(
        before=(RENAME, "/docker.tar$"), leaves=".docker.tar.*.partial"
    ),
    "writing a layout": Phase(
        before=(RENAME, "layout/blobs/sha256/@LAYER"), leaves="layout/blobs/sha256/.*.partial"
    ),
    "marking a layout": Phase(
        before=(RENAME, "layout/oci-layout"), leaves="layout/.oci-layout.*.partial"
    ),
    "remembering results": Phase(
        before=(RENAME, "/records/results/"), leaves="store/tmp/*/record-*"
    ),
}


@dataclass(slots=True)
class Scene:
    """A directory to build in, and the registry that it talks to."""

    directory: Path
    double: GatedDouble
    base: str
    host: str
    layer: str

    def words(self, phase: Phase) -> list[str]:
        """The command, for a build that is to be stopped there."""
        start: tuple[str, ...] = COMMAND
        if phase.before is not None:
            event, pattern = phase.before
            start = (sys.executable, str(STOPPING), event, self.named(pattern))
        return [*start, "build", *WORDS.replace("HOST", self.host).split()]

    def named(self, pattern: str) -> str:
        """``pattern`` with the digests of this image in it."""
        return pattern.replace("@BASE", self.base).replace("@LAYER", self.layer)

    def left(self, phase: Phase) -> list[Path]:
        """What a build leaves in this phase."""
        found = self.directory.glob(self.named(phase.leaves)) if phase.leaves else ()
        return [path for path in found if path.is_dir() or _size(path) >= phase.least]

    def hold(self, how: str) -> None:
        """What the command does first; the same for every build that is not held up."""
        (self.directory / "how").write_text(f"{how or 'true'}\n")


def _size(path: Path) -> int:
    """The bytes of a file; 0 if it has gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@functools.cache
def large_base() -> Image:
    """Busybox and behind it, in the same layer, bytes that do not shrink: what has less than a MiB is
    unpacked only when it is all here.
    """
    plain = gzip.decompress(busybox_layer().data).rstrip(b"\0")
    padding = bytes(-len(plain) % 512)
    more = make_tar(
        [
            Node("srv", tarfile.DIRTYPE, 0o755),
            Node("srv/noise", content=random.Random(1).randbytes(3 << 19)),
        ]
    )
    return replace(busybox_image(), layers=(Layer.of_tar(plain + padding + more),))


@asynccontextmanager
async def scene(directory: Path, layer: str) -> AsyncIterator[Scene]:
    """A context, and a registry with the base."""
    double = GatedDouble()
    base = large_base()
    add_image(double, "base/busybox", base)
    async with serving(double) as host:
        path = context(directory, DOCKERFILE.replace("HOST", host), {"file": "content\n"})
        os.utime(path / "file", (1_700_000_000, 1_700_000_000))
        made = Scene(directory, double, base.layers[0].digest.partition(":")[2], host, layer)
        made.hold("")
        yield made


async def build(made: Scene) -> str:
    """Build to the end; the digest of the image."""
    await build_quietly(made.directory, made.words(Phase()))
    return str(made.double.tags["app"]["1"])


@pytest.fixture(scope="module")
def right() -> Right:
    """The result of a build that nobody disturbs."""

    async def main(directory: Path) -> Right:
        async with scene(directory, "") as made:
            digest = await build(made)
            layers = json.loads(made.double.manifest("app", "1").raw)["layers"]
            return Right(digest, layers[-2]["digest"].partition(":")[2])

    with scratch() as directory:
        return trio.run(main, directory)


async def is_there(made: Scene, phase: Phase, child: trio.Process) -> None:
    """Return when the build is in ``phase``."""
    if phase.before is not None:
        flags = os.WSTOPPED | os.WEXITED | os.WNOWAIT
        stopped = await trio.to_thread.run_sync(
            os.waitid, os.P_PID, child.pid, flags, abandon_on_cancel=True
        )
        assert stopped is not None
        assert stopped.si_code == os.CLD_STOPPED
    elif phase.hangs is not None:
        method, path = phase.hangs
        held = re.compile(f"({method}) .*{made.named(path)}")
        await made.double.wait(
            lambda: any(
                entry.status and held.match(f"{entry.method} {entry.path}")
                for entry in made.double.log
            )
        )
    elif phase.says:
        assert child.stderr is not None
        said = b""
        while b"\n" not in said.partition(phase.says)[2]:
            more = await child.stderr.receive_some()
            assert more, said.decode()
            said += more
    while phase.leaves and not made.left(phase):
        assert child.poll() is None
        await trio.sleep(0.001)


async def kill_in(made: Scene, phase: Phase) -> None:
    """Begin a build, kill it in ``phase``, and see that all of it ends."""
    if phase.hangs is not None:
        method, path = phase.hangs
        for name in method.split("|"):
            made.double.faults.add(Rule(Hang(phase.after), name, made.named(path)))
    made.hold(phase.how)
    child = await trio.lowlevel.open_process(
        made.words(phase),
        cwd=made.directory,
        env=environment(SOURCE_DATE_EPOCH="1700000000"),
        stderr=subprocess.PIPE if phase.says else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    await is_there(made, phase, child)
    with watching(child.pid) as handles:
        child.kill()
        assert await child.wait() == -9
        assert await trio.to_thread.run_sync(ended, handles, PATIENCE)
    assert not phase.leaves or made.left(phase)
    made.hold("")
    made.double.faults.clear()


async def check_image(made: Scene, digest: str) -> None:
    """What other programs read is the image: in the registry and in every output."""
    said: dict[str, bytes] = {}

    async def inspect(name: str, *more: str) -> None:
        words = ["skopeo", "inspect", *more, name]
        done = await trio.run_process(words, cwd=made.directory, capture_stdout=True)
        said[name.partition(":")[0]] = done.stdout

    async with trio.open_nursery() as nursery:
        nursery.start_soon(inspect, f"docker://{made.host}/app:1", "--tls-verify=false", "--config")
        nursery.start_soon(inspect, "docker-archive:docker.tar", "--config")
        nursery.start_soon(inspect, "oci-archive:oci.tar", "--raw")
        nursery.start_soon(inspect, "oci:layout:1", "--raw")
    for name in ("docker", "docker-archive"):
        assert len(json.loads(said[name])["rootfs"]["diff_ids"]) == 4, name
    for name in ("oci", "oci-archive"):
        assert f"sha256:{hashlib.sha256(said[name]).hexdigest()}" == digest, name


def litter(directory: Path) -> list[str]:
    """What a killed build left and the one after it should have removed."""
    found = [
        *directory.glob("store/tmp/*"),
        *directory.glob("store/.*"),
        *directory.glob("kept/tmp/*"),
    ]
    found += [*directory.glob("store/records/**/.*"), *directory.glob("kept/**/.*")]
    found += directory.glob("**/*.partial")
    return [str(path.relative_to(directory)) for path in found]


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
def test_killed(phase: Phase, shm_path: Path, right: Right) -> None:
    """Nothing of it lives on; the next build makes the right image everywhere, and clears up."""
    before = Belongings.now()

    async def main() -> str:
        with trio.fail_after(PATIENCE):
            async with scene(shm_path, right.layer) as made:
                await kill_in(made, phase)
                wrong = store_faults(shm_path / "store")
                assert [text for text in wrong if "work place" not in text] == []
                digest = await build(made)
                await check_image(made, right.digest)
                return digest

    assert trio.run(main) == right.digest
    assert Belongings.now().more_than(before) == []
    assert store_faults(shm_path / "store") == []
    assert litter(shm_path) == []
    done = asyncbuild_here("prune", "--store", shm_path / "store", "--all")
    assert done.returncode == 0, told(done)
    assert b" removed" in done.stdout
    assert list((shm_path / "store/tmp").iterdir()) == []
    assert list((shm_path / "store/blobs/sha256").iterdir()) == []


@pytest.mark.parametrize("name", ["unpacking", "packing"])
def test_prune_clears_up_too(name: str, shm_path: Path, right: Right) -> None:
    """Without another build: what a killed one left is gone, and nothing else."""

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with scene(shm_path, right.layer) as made:
                await kill_in(made, PHASES[name])

    trio.run(main)
    assert litter(shm_path)
    kept = sorted((shm_path / "store/blobs/sha256").iterdir())
    done = asyncbuild_here("prune", "--store", shm_path / "store", "--older-than", "1d")
    assert done.returncode == 0, told(done)
    assert litter(shm_path) == []
    assert sorted((shm_path / "store/blobs/sha256").iterdir()) == kept
