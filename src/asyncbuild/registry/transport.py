"""The network of one registry host: a connection pool under httpx, and the scheme of the host.

A registry on this machine, or one that was declared insecure, may speak https or http: https is tried
first, and only if its handshake fails because the other side speaks no TLS, http is taken. The answer is
kept, and the connection of a successful try is used for the first request. Other hosts are https.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlsplit

import httpcore
import httpx
import trio

from asyncbuild.records import dataclass
from asyncbuild.registry.headstart import HeadStart
from asyncbuild.registry.hosts import HostSettings, fixed_scheme
from asyncbuild.registry.http11 import Origin, Request
from asyncbuild.registry.network import NotTls, SocketBackend
from asyncbuild.registry.pool import ConnectionPool, Reply
from asyncbuild.registry.protocol import api_host
from asyncbuild.registry.proxies import Proxies, Proxy
from asyncbuild.registry.reach import Guard
from asyncbuild.registry.tls import Trust

MAX_CONNECTIONS = 80
"""Connections of one registry's client, its token service and blob hosts included: as many as there may be
downloads (`build.supply`), and some for the mounts and uploads beside these.
"""
EARLY = "asyncbuild.early"
"""The extension of answers to what a head start has sent: how many seconds they took. When they are asked
for they may be here.
"""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, for the next bytes of an answer, for the next bytes to go, and for the answer
    to a closing PUT, in which some registries copy the whole blob. A host that has answered nothing
    after ``far`` is far away.
    """

    connect: float = 30.0
    receive: float = 60.0
    send: float = 60.0
    commit: float = 600.0
    far: float = 0.025


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

    async def dial_ahead(self, count: int) -> None:
        """Have ``count`` connections to the registry in all."""

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

    async def dial_ahead(self, count: int) -> None:  # noqa: ARG002
        """Nothing to open."""
        await trio.lowlevel.checkpoint()


class SocketLink:
    """The link over real sockets."""

    def __init__(
        self, registry: str, settings: HostSettings, network: Network, timeouts: Timeouts
    ) -> None:
        self.host = api_host(registry)
        self._timeouts = timeouts
        self._network = network
        self.transport: httpx.AsyncBaseTransport = PoolTransport(network)
        self._scheme = fixed_scheme(self.host, settings)
        self._insecure = settings.insecure
        self._lock = trio.Lock()

    @property
    def connections(self) -> int:
        """How many TCP connections were opened."""
        return self._network.connections

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

    async def dial_ahead(self, count: int) -> None:
        """Have ``count`` connections in all, those that are being made too; one that fails is no error."""
        base = await self.base_url()
        backend, (host, port, _) = self._backend(base)
        early = self._network.head_start
        coming = 0 if early is None else early.coming(host, port)

        async def dial() -> None:
            with contextlib.suppress(httpcore.NetworkError, httpcore.TimeoutException):
                await self._dial_url(base)

        async with trio.open_nursery() as nursery:
            for _ in range(count - backend.begun - coming):
                nursery.start_soon(dial)

    async def _dial_url(self, url: str) -> None:
        backend, (host, port, tls) = self._backend(url)
        await backend.dial(host, port, tls=tls, timeout=self._timeouts.connect)

    def _backend(self, url: str) -> tuple[SocketBackend, tuple[str, int, bool]]:
        """What opens connections to the host of ``url``: the host, the port, and whether by TLS."""
        parts = httpx.URL(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        host = parts.raw_host.decode("ascii").strip("[]")
        proxy = self._network.proxies.find(parts.scheme, host, port)
        backend = self._network.backend(proxy if tls else None)
        if proxy is not None and not tls:
            host, port = proxy.host, proxy.port
        return backend, (host, port, tls)


class Network:
    """The sockets of one client: those that go straight, and those in tunnels of proxies."""

    def __init__(
        self,
        trust: Trust,
        proxies: Proxies | None = None,
        guard: Guard | None = None,
        head_start: HeadStart | None = None,
    ) -> None:
        self._guard = guard
        self.head_start = head_start
        self.proxies = proxies or Proxies()
        self._trust = trust
        self._backends: dict[Proxy | None, SocketBackend] = {}

    def backend(self, proxy: Proxy | None = None) -> SocketBackend:
        """The backend whose connections are tunnels of ``proxy``; None is without one."""
        if proxy not in self._backends:
            early = self.head_start if proxy is None else None
            self._backends[proxy] = SocketBackend(self._trust, proxy, self._guard, early)
        return self._backends[proxy]

    @property
    def connections(self) -> int:
        """How many TCP connections were opened."""
        return sum(backend.connections for backend in self._backends.values())

    async def aclose(self) -> None:
        """Close what was dialled and never used."""
        for backend in self._backends.values():
            await backend.aclose()


class PoolTransport(httpx.AsyncBaseTransport):
    """httpx over pools of our own sockets: HTTP/1.1, lazy TLS.

    A request over https goes through a proxy's tunnel; one over http is the proxy's own to forward.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._pools: dict[Proxy | None, ConnectionPool] = {}

    def _pool(self, proxy: Proxy | None) -> ConnectionPool:
        if proxy not in self._pools:
            self._pools[proxy] = ConnectionPool(self._network.backend(proxy), MAX_CONNECTIONS)
        return self._pools[proxy]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the answer's body is still to be read."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        url = request.url
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{url.scheme}:// is not spoken here")
        tls = url.scheme == "https"
        origin = Origin(
            tls, url.raw_host.decode("ascii").strip("[]"), url.port or (443 if tls else 80)
        )
        proxy = self._network.proxies.find(url.scheme, origin.host, origin.port)
        early = None if proxy is not None else await self._early(request)
        if early is not None:
            return early
        target, headers = url.raw_path, list(request.headers.raw)
        if (
            proxy is not None and not tls
        ):  # asked for the whole URL (RFC 9112, 3.2.2: absolute form)
            target = b"%s://%s%s" % (url.raw_scheme, url.netloc, url.raw_path)
            origin = Origin(tls, proxy.host, proxy.port)
            if proxy.authorization:
                headers.append((b"Proxy-Authorization", proxy.authorization.encode("ascii")))
        timeouts = request.extensions.get("timeout", {})
        sent = Request(request.method, origin, target, headers, request.stream, timeouts)
        with _as_httpx():
            reply = await self._pool(proxy if tls else None).send(sent)
        return httpx.Response(
            reply.status,
            headers=reply.headers,
            stream=_Body(reply),
            extensions={"network_stream": reply.stream},
        )

    async def _early(self, request: httpx.Request) -> httpx.Response | None:
        """The answer to a request that a head start has sent."""
        if self._network.head_start is None or request.method not in ("GET", "POST"):
            return None
        headers = tuple(request.headers.multi_items())
        asked = self._network.head_start.take(str(request.url), headers, request.method)
        if asked is None:
            return None
        reply = await trio.to_thread.run_sync(asked.wait, abandon_on_cancel=True)
        if reply is None:
            return None
        body = httpx.ByteStream(reply.body)
        early = {EARLY: asked.seconds}
        return httpx.Response(
            reply.status, headers=list(reply.headers), stream=body, extensions=early
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._network.aclose()
        for pool in self._pools.values():
            await pool.aclose()


class _Body(httpx.AsyncByteStream):
    """A reply's body with httpx's errors; not a generator, so it may be left half read."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        with _as_httpx():
            chunk = await self._reply.next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        await self._reply.aclose()


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
