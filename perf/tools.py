"""The builders that the bench runs, each as a person would start it for the same result.

A tool gets a state directory of its own (its store; fresh in a cold run) and one command line per
build. buildah is Debian's. kaniko and BuildKit take part where ``PERF_KANIKO`` (and ``PERF_KANIKO_FORK``: the living fork),
or ``PERF_BUILDKITD`` and ``PERF_BUILDCTL``, name their programs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from perf.measure import Cell
from perf.prepared import sources_digest

_SOURCES = Path(__file__).resolve().parent.parent / "src"


@dataclass(frozen=True, slots=True)
class Build:
    """One build: a context with a Dockerfile, destinations at ``registry`` (``host:port``), the tool's
    state, and the certificate of a registry that speaks TLS. ``cached``: with a cache in the registry.
    """

    context: Path
    registry: str
    repository: str
    state: Path
    ca: Path | None = None
    destinations: int = 1
    cached: bool = False

    @property
    def names(self) -> list[str]:
        """The references that are pushed."""
        more = [f"{self.registry}/{self.repository}-{n}:1" for n in range(2, self.destinations + 1)]
        return [f"{self.registry}/{self.repository}:1", *more]

    @property
    def cache(self) -> str:
        """The repository of the cache."""
        return f"{self.registry}/cache"


class Tool(Protocol):
    """A builder; ``version`` is what its own program says."""

    name: str

    def version(self) -> str:
        """One line."""
        ...

    def identity(self) -> str:
        """Another one where what it builds or caches may be another."""
        ...

    def command(self, build: Build) -> list[str]:
        """What builds and pushes."""
        ...

    def running(self, build: Build, cell: Cell) -> contextlib.AbstractContextManager[None]:
        """Whatever must be up before the clock starts (a daemon goes into ``cell``)."""
        ...


def environment(build: Build) -> dict[str, str]:
    """The tools' environment: nothing of the caller's configuration, temporary files on tmpfs."""
    home = build.state / "home"
    home.mkdir(parents=True, exist_ok=True)
    passed = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**passed, "HOME": str(home), "TMPDIR": str(build.state), "BUILDAH_ISOLATION": "chroot"}


@contextlib.contextmanager
def _nothing_running() -> Iterator[None]:
    yield


def _stamp(program: str) -> str:
    """A program file's size and time."""
    found = Path(program).stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().splitlines()[0]


@dataclass(slots=True)
class Asyncbuild:
    """Ours, as installed in the project's virtual environment (or from ``src`` where it is not);
    ``PERF_ASYNCBUILD`` names another program, say of an earlier commit.
    """

    name: str = "asyncbuild"
    options: tuple[str, ...] = ()

    def _program(self) -> list[str]:
        if "PERF_ASYNCBUILD" in os.environ:
            return [os.environ["PERF_ASYNCBUILD"]]
        installed = Path(sys.prefix) / "bin" / "asyncbuild"
        if installed.exists():
            return [str(installed)]
        return ["/usr/bin/env", f"PYTHONPATH={_SOURCES}", sys.executable, "-m", "asyncbuild"]

    def version(self) -> str:
        return _first_line(*self._program(), "--version")

    def identity(self) -> str:
        """Its sources; those of another program are unknown, so its own of this run alone."""
        if "PERF_ASYNCBUILD" in os.environ:
            return f"{os.environ['PERF_ASYNCBUILD']} {os.getpid()}"
        return f"{sources_digest(_SOURCES)} {self.options}"

    def command(self, build: Build) -> list[str]:
        store = ["--store", str(build.state / "store")]
        target = [word for name in build.names for word in ("-t", name)]
        target += ["--progress", "plain"]
        if build.cached:
            cache = f"type=registry,ref={build.cache}"
            target += ["--cache-from", cache, "--cache-to", f"{cache},mode=max"]
        if build.ca is not None:
            target += ["--registry-ca", f"{build.registry}={build.ca}"]
        else:  # as BuildKit's configuration says it
            target += ["--insecure", f"http://{build.registry}"]
        return [*self._program(), "build", *store, *target, *self.options, str(build.context)]

    def running(self, build: Build, cell: Cell) -> contextlib.AbstractContextManager[None]:
        del build, cell
        return _nothing_running()


@dataclass(slots=True)
class Buildah:
    """Debian's buildah: build with a layer per step as the others do, stages in parallel, then push."""

    name: str = "buildah"
    driver: str = "overlay"
    layers: bool = True

    def version(self) -> str:
        return _first_line("buildah", "--version")

    def identity(self) -> str:
        return f"{self.version()} {self.driver} {self.layers}"

    def command(self, build: Build) -> list[str]:
        state = build.state
        stores = ["--root", str(state / "root"), "--runroot", str(state / "run")]
        buildah = ["buildah", *stores, "--storage-driver", self.driver]
        flags = [
            f"--layers={str(self.layers).lower()}",
            "--jobs=2",
            "--isolation=chroot",
            "--tls-verify=false",
        ]
        if build.cached:
            flags += [f"--cache-from={build.cache}", f"--cache-to={build.cache}"]
        tags = [word for name in build.names for word in ("-t", name)]
        bud = [*buildah, "bud", *flags, *tags, str(build.context)]
        pushes = [[*buildah, "push", "--tls-verify=false", name] for name in build.names]
        return ["/bin/sh", "-c", " && ".join(shlex.join(words) for words in (bud, *pushes))]

    def running(self, build: Build, cell: Cell) -> contextlib.AbstractContextManager[None]:
        del build, cell
        return _nothing_running()


#: The living fork's previews that can make a build faster. Not SHARED_BASE_CACHE: with it the fork fetched
#: and uploaded J1's whole base, where kaniko mounts it.
_FORK_PREVIEWS = ("CACHE_LOOKAHEAD", "CROSS_REPO_MOUNT", "SKIP_CACHED_STAGES")


@dataclass(slots=True)
class Kaniko:
    """kaniko's executor, in a root of its own (`perf.jail`): it builds at ``/`` and would empty the
    machine's.
    """

    name: str = "kaniko"
    program: str = field(default_factory=lambda: os.environ["PERF_KANIKO"])
    previews: tuple[str, ...] = ()

    def version(self) -> str:
        return _first_line(self.program, "version")

    def identity(self) -> str:
        return f"{_stamp(self.program)} {self.previews}"

    def command(self, build: Build) -> list[str]:
        root = build.state / "kaniko-root"
        variables = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/kaniko"]
        variables += ["HOME=/root", "SSL_CERT_DIR=/kaniko/ssl/certs", f"JAIL_PARENT={os.getpid()}"]
        variables += [f"FF_KANIKO_{name}=true" for name in self.previews]
        alone = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        jail = [sys.executable, "-I", "-S", str(Path(__file__).with_name("jail.py"))]
        inside = [str(root), (root / ".perf-jail").read_text(), str(build.context)]
        executor = ["/kaniko/executor", "--force", "--context=dir:///workspace"]
        executor += [
            "--dockerfile=/workspace/Dockerfile",
            *(f"--destination={name}" for name in build.names),
        ]
        if build.ca is None:
            executor += ["--insecure", "--insecure-pull"]
        else:
            executor.append(
                f"--registry-certificate={build.registry}=/kaniko/ssl/certs/farsite.crt"
            )
        if build.cached:
            executor += ["--cache=true", f"--cache-repo={build.cache}", "--cache-copy-layers=true"]
        return ["env", "-i", *variables, "unshare", *alone, *jail, *inside, *executor]

    @contextlib.contextmanager
    def running(self, build: Build, cell: Cell) -> Iterator[None]:
        del cell
        root = build.state / "kaniko-root"
        shutil.rmtree(root, ignore_errors=True)
        for name in ("proc", "dev", "workspace", "etc", "kaniko/ssl/certs", "tmp"):
            (root / name).mkdir(parents=True)
        (root / ".perf-jail").write_text(secrets.token_hex())
        shutil.copy(self.program, root / "kaniko/executor")
        if build.ca is not None:
            shutil.copy(build.ca, root / "kaniko/ssl/certs/farsite.crt")
        for name in ("resolv.conf", "hosts", "nsswitch.conf"):
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), root / "etc" / name)
        yield


@dataclass(slots=True)
class BuildKit:
    """buildkitd, up before the clock starts, and buildctl; the daemon's CPU and memory count."""

    name: str = "buildkit"
    daemon: str = field(default_factory=lambda: os.environ["PERF_BUILDKITD"])
    client: str = field(default_factory=lambda: os.environ["PERF_BUILDCTL"])

    def version(self) -> str:
        return _first_line(self.daemon, "--version")

    def identity(self) -> str:
        return f"{_stamp(self.daemon)} {_stamp(self.client)}"

    def _socket(self, build: Build) -> str:
        return f"unix://{build.state}/buildkitd.sock"

    def command(self, build: Build) -> list[str]:
        locals_ = [f"--local=context={build.context}", f"--local=dockerfile={build.context}"]
        names = ",".join(build.names)
        output = f'--output=type=image,"name={names}",push=true,registry.insecure=true'
        front = ["--frontend=dockerfile.v0", "--progress=plain"]
        place = f"type=registry,ref={build.cache}:1,registry.insecure=true"
        cache = (
            [f"--import-cache={place}", f"--export-cache={place},mode=max"] if build.cached else []
        )
        return [
            self.client,
            f"--addr={self._socket(build)}",
            "build",
            *front,
            *locals_,
            output,
            *cache,
        ]

    @contextlib.contextmanager
    def running(self, build: Build, cell: Cell) -> Iterator[None]:
        config = build.state / "buildkitd.toml"
        config.write_text(f'[registry."{build.registry}"]\n  http = true\n')
        places = ["--root", str(build.state / "buildkit"), "--addr", self._socket(build)]
        worker = [
            "--oci-worker=true",
            "--containerd-worker=false",
            "--oci-worker-snapshotter=overlayfs",
        ]
        with (build.state / "buildkitd.log").open("wb") as log:
            command = [self.daemon, "--config", str(config), *places, *worker]
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            cell.adopt(daemon.pid)
            ready = [self.client, f"--addr={self._socket(build)}", "debug", "workers"]
            deadline = time.monotonic() + 30
            while subprocess.run(ready, capture_output=True, check=False).returncode:
                if time.monotonic() > deadline or daemon.poll() is not None:
                    raise SystemExit(
                        f"perf: buildkitd does not answer, see {build.state}/buildkitd.log"
                    )
                time.sleep(0.1)
            yield
        finally:
            daemon.terminate()
            daemon.wait()


#: Which tools a whole matrix has, the best peer that was measured first; kaniko itself last, since its fork is what it
#: is today. The rest of the known are variants.
PEERS = ("buildkit", "kaniko-fork", "buildah", "kaniko")


def known_tools() -> dict[str, Tool]:
    """Every tool that can take part on this machine, by name."""
    found: list[Tool] = [Asyncbuild()]
    if shutil.which("buildah"):
        found += [
            Buildah(),
            Buildah("buildah-squash", layers=False),
            Buildah("buildah-vfs", driver="vfs"),
        ]
    if os.environ.get("PERF_KANIKO"):
        found.append(Kaniko())
    if fork := os.environ.get("PERF_KANIKO_FORK"):
        found.append(Kaniko("kaniko-fork", fork, _FORK_PREVIEWS))
    if os.environ.get("PERF_BUILDKITD") and os.environ.get("PERF_BUILDCTL"):
        found.append(BuildKit())
    return {tool.name: tool for tool in found}
