"""The far side of the bench: a real docker-registry on tmpfs, alone or behind the simulated link.

Each measured run gets a registry of its own whose storage starts as a hardlinked copy of the seed, so
every destination repository is fresh and nothing that an earlier run pushed can be mounted or found.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Link:
    """The far link's parameters: seconds, bytes a second (0 = unlimited), bytes; and how the registry
    behind it speaks: over TLS, with a token host, with blobs on a second host.
    """

    rtt: float
    bandwidth: float = 125e6
    per_connection: float = 25e6
    window: int = 3 * 1024 * 1024
    tls: bool = False
    token_host: bool = False
    blob_host: bool = False

    @property
    def speech(self) -> str:
        """How the registry speaks, in words."""
        spoken = {"tls": self.tls, "token": self.token_host, "redirect": self.blob_host}
        return " ".join(word for word, does in spoken.items() if does) or "plain"

    def direct(self) -> Link:
        """The same registry, near."""
        return replace(self, rtt=0.0)

    @property
    def is_direct(self) -> bool:
        """Whether nothing is simulated and the relay only writes its log."""
        return self.rtt == 0


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Registry:
    """A docker-registry process on a loopback port with its storage in ``storage``; ``cpu`` is what it used, once it
    has ended.
    """

    def __init__(self, storage: Path, port: int | None = None) -> None:
        self.storage = storage
        self.port = port or free_port()
        self.cpu = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port`` as references name it."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.storage.mkdir(parents=True, exist_ok=True)
        config = self.storage.parent / f"registry-{self.port}.json"
        config.write_text(json.dumps(self._settings()))
        log = (self.storage.parent / f"registry-{self.port}.log").open("wb")
        command = ["docker-registry", "serve", str(config)]
        environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        log.close()
        wait_until_listening(self.port, self._process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self.cpu = _wait(self._process)

    def _settings(self) -> dict[str, object]:
        return {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.address, "relativeurls": True},
        }


class FarLink:
    """The relay process in front of a registry; ``address`` is what the tools are given, ``cpu`` what it used, once
    it has ended.
    """

    def __init__(self, upstream: str, link: Link, log: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.log = log
        self.cpu = 0.0
        self._command = [sys.executable, "-m", "asyncbuild.testing.farlink", "--upstream", upstream]
        self._command += ["--listen", self.address, "--log", str(log), "--rtt", str(link.rtt)]
        if not link.is_direct:
            self._command += ["--bandwidth", str(link.bandwidth), "--window", str(link.window)]
            self._command += ["--per-connection", str(link.per_connection)]
        if link.tls:
            self._command += ["--tls", *map(str, certificate(log.parent))]
        if link.token_host:
            self._command += ["--token-listen", f"127.0.0.1:{free_port()}"]
        if link.blob_host:
            self._command += ["--blob-listen", f"127.0.0.1:{free_port()}"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port`` of the near end."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until_listening(self.port, self._process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self.cpu = _wait(self._process)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 (its own CA) and its key, made once in ``directory``."""
    crt, key = directory / "tls" / "farsite.crt", directory / "tls" / "farsite-key.pem"
    if not crt.exists():
        crt.parent.mkdir(exist_ok=True)
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        name = [
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ]
        command = [*make, *name, "-out", str(crt), "-keyout", str(key)]
        subprocess.run(command, check=True, capture_output=True)
    return crt, key


def copy_of_storage(storage: Path, target: Path) -> None:
    """A registry's storage that shares the other's blobs by hardlink (docker-registry never changes a blob in
    place, but may rewrite the small files of repositories).
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    kept = Path("docker/registry/v2")
    (target / kept).mkdir(parents=True)
    for name, how in (("blobs", "-al"), ("repositories", "-a")):
        if (storage / kept / name).exists():
            copy = ["cp", how, str(storage / kept / name), str(target / kept / name)]
            subprocess.run(copy, check=True)


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Until the process has ended; its CPU seconds."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def wait_until_listening(port: int, process: subprocess.Popen[bytes], patience: float = 20) -> None:
    """Return once ``port`` is in LISTEN state; asks the kernel's table (of the calling thread's network), so that no
    connection is made.

    Raises:
        SystemExit: The process ended or did not listen in time.

    """
    wanted = f"0100007F:{port:04X}"
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and process.poll() is None:
        for line in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == wanted and fields[3] == "0A":
                return
        time.sleep(0.01)
    raise SystemExit(f"perf: {process.args!r} does not listen on port {port}")
