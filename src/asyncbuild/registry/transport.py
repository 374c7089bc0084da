"""The network of one registry host: a connection pool under httpx, and the scheme of the host.

A registry on this machine, or one that was declared insecure, may speak https or http: https is tried
first, and only if its handshake fails because the other side speaks no TLS, http is taken. The answer is
kept, and the connection of a successful try is used for the first request. Other hosts are https.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import httpcore
import httpx
import trio

from asyncbuild.registry.network import PLACEHOLDER, NotTls, SocketBackend
from asyncbuild.registry.protocol import api_host, is_loopback
from asyncbuild.registry.tls import Trust

MAX_CONNECTIONS = 48
"""Connections of one registry's client, its token service and blob hosts included."""
KEEPALIVE_SECONDS = 55.0
"""Shorter than what servers and their load balancers allow (60 s is common)."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a user said of one registry host.

    ``insecure``: neither certificates nor encryption are required (``--insecure HOST``).
    ``plain`` True or False fixes http or https; None finds out where it is allowed to.
    ``ca_file``: more authorities for this host (PEM). ``client_certificate``: the files of a certificate
    and of its key that we show to it (PEM).
    """

    insecure: bool = False
    plain: bool | None = None
    ca_file: str | None = None
    client_certificate: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, for the next bytes of an answer, for the next bytes to go, and for the answer
    to a closing PUT, in which some registries copy the whole blob.
    """

    connect: float = 30.0
    receive: float = 60.0
    send: float = 60.0
    commit: float = 600.0


class Link(Protocol):
    """How a client reaches its host."""

    @property
    def host(self) -> str:
        """The API's host, with port."""

    @property
    def transport(self) -> httpx.AsyncBaseTransport:
        """What carries requests."""

    async def base_url(self) -> str:
        """``https://host`` or ``http://host``."""

    async def dial(self, url: str | None = None) -> None:
        """Open a connection to the registry (or to ``url``'s host) before it is needed."""

    @property
    def connections(self) -> int:
        """How many connections were opened."""


class FixedLink:
    """A link over any httpx transport, always https: for doubles."""

    def __init__(self, registry: str, transport: httpx.AsyncBaseTransport) -> None:
        self.host = api_host(registry)
        self.transport = transport
        self.connections = 0

    async def base_url(self) -> str:
        """``https://host``."""
        await trio.lowlevel.checkpoint()
        return f"https://{self.host}"

    async def dial(self, url: str | None = None) -> None:  # noqa: ARG002
        """Nothing to open."""
        await trio.lowlevel.checkpoint()


class SocketLink:
    """The link over real sockets."""

    def __init__(
        self, registry: str, settings: HostSettings, trust: Trust, timeouts: Timeouts
    ) -> None:
        self.host = api_host(registry)
        self._timeouts = timeouts
        self._backend = SocketBackend(trust)
        self.transport: httpx.AsyncBaseTransport = PoolTransport(self._backend)
        self._scheme = _fixed_scheme(self.host, settings)
        self._insecure = settings.insecure
        self._lock = trio.Lock()

    @property
    def connections(self) -> int:
        """How many TCP connections were opened."""
        return self._backend.connections

    async def base_url(self) -> str:
        """The scheme is found out on first use; raises httpx's connection errors."""
        if self._scheme is None:
            async with self._lock:
                if self._scheme is None:
                    with _as_httpx():
                        self._scheme = await self._find_scheme()
        return f"{self._scheme}://{self.host}"

    async def _find_scheme(self) -> str:
        try:
            await self._dial_url(f"https://{self.host}")
        except NotTls:
            return "http"
        except httpcore.ConnectError:
            if self._insecure and urlsplit(f"//{self.host}").port is None:
                return "http"
            raise
        return "https"

    async def dial(self, url: str | None = None) -> None:
        """Open a connection to the registry, or to the host of ``url``, before it is needed."""
        if url is not None:
            with _as_httpx():
                await self._dial_url(url)
            return
        unknown = self._scheme is None
        base = await self.base_url()
        if unknown and base.startswith("https"):
            return  # finding out opened it
        with _as_httpx():
            await self._dial_url(base)

    async def _dial_url(self, url: str) -> None:
        parts = httpx.URL(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        host = parts.raw_host.decode("ascii")
        await self._backend.dial(host, port, tls=tls, timeout=self._timeouts.connect)


def _fixed_scheme(host: str, settings: HostSettings) -> str | None:
    if settings.plain is not None:
        return "http" if settings.plain else "https"
    return None if settings.insecure or is_loopback(host) else "https"


class PoolTransport(httpx.AsyncBaseTransport):
    """httpx over httpcore's pool and our own sockets: HTTP/1.1, no proxy, lazy TLS."""

    def __init__(self, backend: SocketBackend) -> None:
        self._backend = backend
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=PLACEHOLDER,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=backend,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the answer's body is still to be read."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        sent = httpcore.Request(
            method=request.method,
            url=url,
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = await self._pool.handle_async_request(sent)
        assert isinstance(answer.stream, AsyncIterable)
        body = _Body(answer.stream)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=body, extensions=answer.extensions
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._backend.aclose()
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    """httpcore's body with httpx's errors; not a generator, so it may be left half read."""

    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream
        self._iterator: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> _Body:
        self._iterator = self._stream.__aiter__()
        return self

    async def __anext__(self) -> bytes:
        assert self._iterator is not None
        with _as_httpx():
            return await self._iterator.__anext__()

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """The exceptions of httpx have the names of httpcore's; ours of `network` stay as the cause."""
    try:
        yield
    except Exception as error:
        for kind in type(error).__mro__:
            found = getattr(httpx, kind.__name__, None)
            if kind.__module__.startswith("httpcore") and found is not None:
                raise found(str(error)) from error
        raise
