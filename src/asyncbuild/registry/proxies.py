"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Pure.

The rules are those of Go's ``golang.org/x/net/http/httpproxy``, which docker, BuildKit and kaniko follow:

1. Lower-case names win over upper-case ones. A proxy without a scheme is ``http://``.
2. This machine (``localhost``, loopback addresses) is always reached directly.
3. NO_PROXY is a list with commas: ``*`` is everything; ``example.com`` is that host and all below it;
   ``.example.com`` and ``*.example.com`` only those below; addresses and networks (``10.0.0.0/8``) count
   for hosts that are written as addresses; ``:port`` narrows an entry.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import Self
from urllib.parse import unquote, urlsplit

from asyncbuild.errors import UsageError
from asyncbuild.records import dataclass, field
from asyncbuild.registry.protocol import is_loopback, redact


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is spoken to in plain HTTP; ``authorization`` is for Proxy-Authorization."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL; raises `UsageError` for a proxy that speaks something else than HTTP."""
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port = None, 0
        if not host:
            raise UsageError(f"the proxy {redact(text)} is no URL")
        if parts.scheme != "http":
            raise UsageError(
                f"the proxy {redact(text)} speaks {parts.scheme}: only http:// proxies are supported",
                hint="requests to https registries are encrypted through an http:// proxy too",
            )
        if parts.username is None:
            return cls(host, port)
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        return cls(host, port, "Basic " + base64.b64encode(pair).decode("ascii"))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of both schemes, and what is reached without."""

    http: Proxy | None = None
    https: Proxy | None = None
    exempt: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables; raises `UsageError` for a proxy that cannot be used."""

        def get(name: str) -> str:
            return environ.get(name.lower()) or environ.get(name.upper()) or ""

        http, https = (get(f"{scheme}_proxy") for scheme in ("http", "https"))
        return cls(
            Proxy.parse(http) if http else None,
            Proxy.parse(https) if https else None,
            tuple(filter(None, (item.strip().lower() for item in get("no_proxy").split(",")))),
        )

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a request to ``host`` (IPv6 without brackets), None for the direct way."""
        proxy = self.https if scheme == "https" else self.http
        if proxy is None or is_loopback(f"[{host}]" if ":" in host else host):
            return None
        return None if any(_is_named(entry, host.lower(), port) for entry in self.exempt) else proxy


def _is_named(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, colon, number = entry.rpartition(":")
    if colon and number.isascii() and number.isdigit() and (":" not in name or name[-1:] == "]"):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        below = entry.removeprefix("*").startswith(".")
        suffix = entry.removeprefix("*").lstrip(".")
        return bool(suffix) and (host.endswith(f".{suffix}") or (not below and host == suffix))
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
