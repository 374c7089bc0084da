"""Debian's docker-registry as a child process on a free loopback port, with its access log.

The registry is ended by its pid; if the process that started it dies first, the kernel kills it
(``setpriv --pdeathsig``).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

_MARK = "asyncbuild-tests-mark"
_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the access log. Times are seconds since the epoch, ``written`` is bytes of the answer's
    body, ``remote`` is the client's address and port (one per connection).
    """

    method: str
    path: str
    status: int
    started: float
    ended: float
    written: int
    remote: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password for the registry's basic authentication."""

    username: str
    password: str

    def header(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True, slots=True)
class Tls:
    """A server certificate with its key, and the authority that signed it (PEM files)."""

    certificate: Path
    key: Path
    ca_file: Path


@dataclass(frozen=True, slots=True)
class TokenAuth:
    """Tokens (``auth: token``): where they are had, who issues them for whom, whose signature is good."""

    realm: str
    service: str
    issuer: str
    certificates: Path

    def configuration(self) -> dict[str, str]:
        """As docker-registry's file has it."""
        return {
            "realm": self.realm,
            "service": self.service,
            "issuer": self.issuer,
            "rootcertbundle": str(self.certificates),
        }


class DockerRegistry:
    """A running registry: where it listens, what it was asked, and a small HTTP client to fill it."""

    def __init__(
        self, host: str, log: Path, *, login: Login | None = None, tls: Tls | None = None
    ) -> None:
        self.host = host
        self.log = log
        self.login = login
        self.tls = tls
        self._log_read = 0  # bytes of the log's whole lines that are in _seen
        self._seen: list[Request] = []

    @property
    def username(self) -> str:
        """The user that may log in; only for a registry with a login."""
        assert self.login is not None
        return self.login.username

    @property
    def password(self) -> str:
        """That user's password."""
        assert self.login is not None
        return self.login.password

    @property
    def ca_file(self) -> Path:
        """The certificate authority to trust; only for a registry with TLS."""
        assert self.tls is not None
        return self.tls.ca_file

    def write_docker_config(self, directory: Path) -> Path:
        """Write ``config.json`` with this registry's login below ``directory``; returns ``directory``."""
        assert self.login is not None
        directory.mkdir(parents=True, exist_ok=True)
        auth = self.login.header().removeprefix("Basic ")
        text = json.dumps({"auths": {self.host: {"auth": auth}}})
        (directory / "config.json").write_text(text)
        return directory

    def connect(self) -> http.client.HTTPConnection:
        """A new connection to this registry."""
        if self.tls is None:
            return http.client.HTTPConnection(self.host, timeout=60)
        context = ssl.create_default_context(cafile=str(self.tls.ca_file))
        return http.client.HTTPSConnection(self.host, timeout=60, context=context)

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request on a connection of its own: status, headers with lower-case names, body."""
        sent = {"User-Agent": _MARK, **(headers or {})}
        if self.login is not None:
            sent["Authorization"] = self.login.header()
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body=body or None, headers=sent)
            answer = connection.getresponse()
            received = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, received, answer.read()

    def requests(self, since: int = 0) -> list[Request]:
        """The requests of others than this object, in the order of their end, without the first
        ``since``. Waits until the log holds every request that was answered before this call.
        """
        marker = f"/v2/?mark={time.monotonic_ns()}"
        self.call("GET", marker)
        deadline = time.monotonic() + _START_SECONDS
        while not self._read_log(marker):
            if time.monotonic() > deadline:
                raise TimeoutError("the registry's log does not show its last request")
            time.sleep(0.002)
        return self._seen[since:]

    def _read_log(self, marker: str) -> bool:
        """Take in the log's new lines; whether ``marker`` is among them."""
        with self.log.open("rb") as log:
            log.seek(self._log_read)
            new, end, _ = log.read().rpartition(b"\n")
        self._log_read += len(new) + len(end)
        lines = new.decode(errors="replace").splitlines()
        found = [request for line in lines if (request := _parse(line)) is not None]
        self._seen += [request for request in found if request.user_agent != _MARK]
        return any(request.path == marker for request in found)

    def mark(self) -> int:
        """How many requests there were until now: the ``since`` of a later ``requests``."""
        return len(self.requests())

    def put_blob(self, repository: str, digest: str, data: bytes) -> None:
        """Upload a blob in one piece."""
        status, headers, text = self.call("POST", f"/v2/{repository}/blobs/uploads/")
        if status != 202:
            raise RuntimeError(f"upload of {digest} refused: {status} {text!r}")
        place = urlsplit(headers["location"])
        path = f"{place.path}?{place.query}&digest={digest}"
        sent = {"Content-Type": "application/octet-stream"}
        status, _, text = self.call("PUT", path, data, sent)
        if status != 201:
            raise RuntimeError(f"upload of {digest} failed: {status} {text!r}")

    def put_manifest(self, repository: str, tag: str, media_type: str, data: bytes) -> str:
        """Upload a manifest or an index; returns the digest that the registry gave it."""
        path = f"/v2/{repository}/manifests/{tag}"
        status, headers, text = self.call("PUT", path, data, {"Content-Type": media_type})
        if status != 201:
            raise RuntimeError(f"manifest {repository}:{tag} refused: {status} {text!r}")
        return headers["docker-content-digest"]


def _parse(line: str) -> Request | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    message = str(record.get("msg", ""))
    # A request without the right login is only logged as a warning, without status and duration.
    refused = message.startswith("error authorizing context")
    if not refused and not message.startswith("response completed"):
        return None
    ended = datetime.fromisoformat(_microseconds(record["time"])).timestamp()
    return Request(
        method=record["http.request.method"],
        path=record["http.request.uri"],
        status=401 if refused else int(record["http.response.status"]),
        started=ended - _go_duration(record.get("http.response.duration", "0s")),
        ended=ended,
        written=int(record.get("http.response.written", 0)),
        remote=record["http.request.remoteaddr"],
        user_agent=record.get("http.request.useragent", ""),
    )


def _microseconds(timestamp: str) -> str:
    """Go writes up to nine digits of a second (and none of them zeros at the end); Python reads six."""
    date, _, fraction = timestamp.rstrip("Z").partition(".")
    return f"{date}.{fraction[:6].ljust(6, '0')}+00:00"


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}


def _go_duration(text: str) -> float:
    """Go's ``1m2.5s`` in seconds."""
    parts = re.findall(r"([\d.]+)(h|ms|m|s|µs|us|ns)", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


@contextlib.contextmanager
def running_registry(
    directory: Path,
    *,
    login: Login | None = None,
    tls: Tls | None = None,
    tokens: TokenAuth | None = None,
) -> Iterator[DockerRegistry]:
    """Run a registry that keeps everything below ``directory`` (made if missing) until the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{_free_port()}"
    config = directory / "config.json"
    configuration = _configuration(host, directory, login, tls)
    if tokens is not None:
        configuration["auth"] = {"token": tokens.configuration()}
    config.write_text(json.dumps(configuration))
    log = directory / "log"
    command = ["setpriv", "--pdeathsig", "KILL", "--", "docker-registry", "serve", str(config)]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_up(child, host, log)
        yield DockerRegistry(host, log, login=login, tls=tls)
    finally:
        child.terminate()
        child.wait()


def _configuration(
    host: str, directory: Path, login: Login | None, tls: Tls | None
) -> dict[str, object]:
    # JSON is YAML; the names are those of docker-registry's configuration reference.
    served: dict[str, object] = {"addr": host, "secret": "only for tests"}
    if tls is not None:
        served["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    configuration: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data"), "maxthreads": 100},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": served,
    }
    if login is not None:
        users = directory / "htpasswd"
        users.write_text(_htpasswd(login))
        configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(users)}}
    return configuration


def _htpasswd(login: Login) -> str:
    # docker-registry takes bcrypt only; 4 is the cheapest cost that it accepts.
    command = ["htpasswd", "-n", "-B", "-C", "4", "-i", login.username]
    return subprocess.run(
        command, input=login.password, check=True, capture_output=True, text=True
    ).stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(child: subprocess.Popen[bytes], host: str, log: Path) -> None:
    address, _, port = host.partition(":")
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, int(port)), 1):
            return
        if child.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"docker-registry does not start: {log.read_text()}")
        time.sleep(0.01)


def make_tls(directory: Path, names: tuple[str, ...] = ("localhost",)) -> Tls:
    """A certificate authority of our own and a certificate for 127.0.0.1 and ``names``, by openssl."""
    directory.mkdir(parents=True, exist_ok=True)
    ca_key, ca = directory / "ca.key", directory / "ca.crt"
    key, request, certificate = (directory / f"server.{end}" for end in ("key", "csr", "crt"))
    extensions = directory / "extensions"
    certified = ",".join(f"DNS:{name}" for name in names)
    extensions.write_text(f"subjectAltName=IP:127.0.0.1,{certified}\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    authority = ["-x509", "-days", "2", "-subj", "/CN=asyncbuild tests", "-keyout", str(ca_key)]
    _openssl("req", *new_key, *authority, "-out", str(ca))
    _openssl("req", *new_key, "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(request))
    signing = ["-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2"]
    made = ["-extfile", str(extensions), "-in", str(request), "-out", str(certificate)]
    _openssl("x509", "-req", *signing, *made)
    return Tls(certificate, key, ca)


def make_signer(directory: Path) -> tuple[Path, Path]:
    """An RSA key and a certificate of it, signed by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    key, certificate = directory / "signer.key", directory / "signer.crt"
    signed = ["-x509", "-days", "2", "-subj", "/CN=asyncbuild tests' tokens", "-nodes"]
    _openssl("req", "-newkey", "rsa:2048", *signed, "-keyout", str(key), "-out", str(certificate))
    return key, certificate


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def remove_tree(path: Path) -> None:
    """Remove a directory that a test filled, whatever modes it left there."""
    shutil.rmtree(path, ignore_errors=True)
