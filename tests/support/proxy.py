"""A forwarding HTTP proxy on loopback: CONNECT tunnels, and requests in absolute form."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio


@dataclass(slots=True)
class ForwardProxy:
    """What the proxy was asked (``METHOD target``), and what it wants to be told first.

    Whatever host is asked for, connections go to loopback. ``password``: the value of
    Proxy-Authorization that it wants to see. ``refusal``: a status with which it answers everything.
    """

    password: str = ""
    refusal: int = 0
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """For HTTP_PROXY."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection of a client: one request, then bytes both ways."""
        broken = (trio.BrokenResourceError, trio.ClosedResourceError)
        async with client:
            with contextlib.suppress(*broken):
                await self._serve(client)

    async def _serve(self, client: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = await client.receive_some()
            if not received:
                return
            head += received
        method, target, _ = head.decode("latin-1").split(" ", 2)
        self.asked.append(f"{method} {target}")
        wanted = f"proxy-authorization: {self.password}".lower()
        if self.password and wanted not in head.decode("latin-1").lower():
            await client.send_all(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
        elif self.refusal:
            await client.send_all(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.refusal)
        else:
            await self._pass_on(client, method, target, head)

    async def _pass_on(
        self, client: trio.SocketStream, method: str, target: str, head: bytes
    ) -> None:
        place = urlsplit(target if method != "CONNECT" else f"//{target}")
        assert place.port is not None
        async with await trio.open_tcp_stream("127.0.0.1", place.port) as server:
            if method == "CONNECT":
                await client.send_all(b"HTTP/1.1 200 Go on\r\n\r\n")
            else:
                await server.send_all(
                    head.replace(f"{place.scheme}://{place.netloc}".encode(), b"", 1)
                )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client, server, nursery.cancel_scope)
                nursery.start_soon(_pump, server, client, nursery.cancel_scope)


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    both.cancel()


@contextlib.asynccontextmanager
async def forwarding(proxy: ForwardProxy | None = None) -> AsyncIterator[ForwardProxy]:
    """Run ``proxy`` until the block ends."""
    proxy = proxy or ForwardProxy()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
