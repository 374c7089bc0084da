"""``certs.d/HOST/hosts.toml``: where the images of a registry are looked for, and how. Pure.

The file is containerd's and BuildKit's (containerd, "docs/hosts.md"). Hosts are asked in the order in which
the file names them, the ``server`` last; each is told by ``?ns=`` whose images are meant, if it is another
host. One deviation: a push goes to a host only if the file names the capability ``push`` there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from asyncbuild.errors import InputError
from asyncbuild.image.reference import DOCKER_HUB
from asyncbuild.records import dataclass, replace
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.protocol import API_ROOT, DOCKER_HUB_API

PULL = "pull"
RESOLVE = "resolve"
PUSH = "push"
_KNOWN = frozenset({PULL, RESOLVE, PUSH})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host of the file: what it is asked for, and how it is spoken to."""

    host: str
    settings: HostSettings
    capabilities: frozenset[str]


@dataclass(frozen=True, slots=True)
class HostsFile:
    """The hosts in their order; ``server`` is None where the registry itself is meant."""

    hosts: tuple[Endpoint, ...] = ()
    server: Endpoint | None = None


def parse_hosts_toml(text: str, path: str, registry: str) -> HostsFile:
    """Decode the file at ``path``, for ``registry``. Raises `InputError`, which names ``path``.

    Relative file names are seen from the file's directory.
    """
    import tomllib  # noqa: PLC0415 - few machines have such files

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    reader = _Reader(path, registry)
    hosts = document.get("host", {})
    if not isinstance(hosts, dict):
        raise reader.wrong("host")
    server = reader.endpoint(str(document.get("server") or f"https://{registry}"), document, _KNOWN)
    if (
        "server" not in document
    ):  # the registry itself, of which the name says whether it may be plain
        server = replace(server, settings=replace(server.settings, plain=None))
    usual = frozenset({PULL, RESOLVE})
    found = tuple(reader.endpoint(url, table, usual) for url, table in hosts.items())
    return HostsFile(found, server)


@dataclass(frozen=True, slots=True)
class _Reader:
    path: str
    registry: str

    def wrong(self, name: str) -> InputError:
        return InputError(f"{self.path}: {name} is not what a hosts.toml has there")

    def endpoint(self, url: str, table: Any, usual: frozenset[str]) -> Endpoint:
        if not isinstance(table, dict):
            raise self.wrong(f"host.{url}")
        try:
            parts = urlsplit(url if "://" in url else f"https://{url}")
            host = parts.netloc.lower()
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in host
            good = good and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good:
            raise self.wrong(f"the host {url!r}")
        capabilities = frozenset(self._texts(table, "capabilities")) or usual
        if not capabilities <= _KNOWN:
            raise self.wrong("capabilities")
        name = DOCKER_HUB if host in (DOCKER_HUB_API, "index.docker.io") else host
        return Endpoint(name, self._settings(parts.scheme, parts.path, table), capabilities)

    def _settings(self, scheme: str, path: str, table: Mapping[str, Any]) -> HostSettings:
        path = path.rstrip("/")
        if not table.get("override_path") and not path.endswith(API_ROOT):
            path += API_ROOT
        skip = table.get("skip_verify") is True
        return HostSettings(
            insecure=skip or scheme == "http",
            plain=scheme == "http",
            ca_files=tuple(self._file(name) for name in self._texts(table, "ca")),
            client_certificate=self._client(table),
            headers=tuple(self._headers(table)),
            root=path,
        )

    def _texts(self, table: Mapping[str, Any], name: str) -> tuple[str, ...]:
        value = table.get(name, [])
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self.wrong(name)
        return tuple(found)

    def _file(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.path.rpartition('/')[0]}/{name}"

    def _client(self, table: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first certificate: ``"file"``, ``["file"]`` or ``[["certificate", "key"]]``."""
        value = table.get("client")
        if value is None:
            return None
        first = value if isinstance(value, str) else value[0] if value else None
        pair = [first, ""] if isinstance(first, str) else first
        if not isinstance(pair, list) or not all(isinstance(item, str) for item in pair):
            raise self.wrong("client")
        certificate, key = (*pair, "", "")[:2]
        return self._file(certificate), self._file(key) if key else ""

    def _headers(self, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        headers = table.get("header", {})
        if not isinstance(headers, dict):
            raise self.wrong("header")
        for name in headers:
            for value in self._texts(headers, name):
                text = f"{name}{value}"
                if not (text.isascii() and text.isprintable()) or ":" in name or not name:
                    raise self.wrong(f"header.{name}")
                yield name, value
