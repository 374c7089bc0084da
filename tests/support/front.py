"""A proxy before a real registry that makes faults: what it is asked it asks on, unless a rule strikes.

The faults are those of the registry double, in its words (`asyncbuild.testing.faults`), and strike real
sockets under TLS: a connection that breaks is reset, and one that is refused finds nobody listening.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import trio

from asyncbuild.testing.exchanges import (
    Answered,
    Asked,
    CountedBody,
    LoggedRequest,
    instead,
    spoilt,
)
from asyncbuild.testing.faults import Action, Delay, Deny, DropUpload, Faults, Refuse, Respond, Rule
from asyncbuild.testing.registry_server import Answering, serve_connection
from support.registry import Tls

_SHUT_SECONDS = 0.05
_PASS_ON_SECONDS = 30.0
_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "te"})
_RESET = struct.pack("ii", 1, 0)


def server_context(tls: Tls) -> ssl.SSLContext:
    """The server's side of ``tls``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    return context


class CountedFaults(Faults):
    """Faults that know how often they struck. A Retry-After asks for ``patience`` seconds, if that is said."""

    def __init__(self, *rules: Rule, patience: int | None = None) -> None:
        super().__init__(*rules)
        self.struck = 0
        self._patience = patience

    def strike(self, method: str, path: str) -> Action | None:
        """Count a request; what to do to it."""
        action = super().strike(method, path)
        self.struck += action is not None
        if self._patience is None:
            return action
        if isinstance(action, Respond) and "retry-after" in action.headers:
            return replace(action, headers={**action.headers, "retry-after": str(self._patience)})
        return action


class Door:
    """Listens on loopback, under TLS, for something that answers; can be shut for a moment.

    ``name`` is the host name by which it is known: ``127.0.0.1`` or ``localhost``.
    """

    def __init__(self, tls: ssl.SSLContext, name: str = "127.0.0.1") -> None:
        self._tls = tls
        self._name = name
        self._port = 0
        self._open = trio.CancelScope()

    @property
    def host(self) -> str:
        """``name:port``."""
        return f"{self._name}:{self._port}"

    def shut(self) -> None:
        """Let nobody in for a moment: the kernel refuses connections."""
        self._open.cancel()

    async def serve(
        self, answering: Answering, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer until cancelled."""

        async def handler(stream: trio.SSLStream[trio.SocketStream]) -> None:
            stream.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            await serve_connection(answering, stream, "https")

        started = False
        async with trio.open_nursery() as connections:
            while True:
                listeners = await trio.open_tcp_listeners(self._port, host="127.0.0.1")
                self._port = listeners[0].socket.getsockname()[1]
                served: list[Any] = [
                    trio.SSLListener(listener, self._tls, https_compatible=True)
                    for listener in listeners
                ]
                if not started:
                    task_status.started()
                    started = True
                with trio.CancelScope() as self._open:
                    await trio.serve_listeners(handler, served, handler_nursery=connections)
                await trio.sleep(_SHUT_SECONDS)


class Front:
    """The proxy. ``faults`` strike by method and path; ``log`` has every request."""

    def __init__(self, upstream: str, client: httpx.AsyncClient, tls: ssl.SSLContext) -> None:
        """``upstream``: the registry's ``host:port``, which ``client`` trusts."""
        self.door = Door(tls)
        self.faults = CountedFaults()
        self.log: list[LoggedRequest] = []
        self._upstream = upstream
        self._client = client

    @property
    def host(self) -> str:
        """``host:port``, as images name it."""
        return self.door.host

    def begin(self, asked: Asked) -> LoggedRequest:
        """Write a request down."""
        return logged(self.log, asked)

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Ask the registry, and spoil what it answers."""
        action = self.faults.strike(asked.method, asked.path)
        if isinstance(action, Refuse):
            self.door.shut()
        answered = await struck(action, asked, entry, self._pass_on)
        entry.status = answered.status
        return answered

    async def _pass_on(self, asked: Asked) -> Answered:
        headers = {name: value for name, value in asked.headers.items() if name not in _BY_HOP} | {
            name: asked.headers[name] for name in ("content-length",) if name in asked.headers
        }
        has_body = asked.method in ("POST", "PUT", "PATCH")
        query = f"?{asked.query}" if asked.query else ""
        request = self._client.build_request(
            asked.method,
            f"https://{self._upstream}{asked.path}{query}",
            headers=headers,
            content=asked.body if has_body else None,
        )
        response = None
        # whoever asked may be gone: httpcore leaves the socket open where a handshake is cancelled
        with trio.move_on_after(_PASS_ON_SECONDS, shield=True):
            try:
                response = await self._client.send(request)
            except httpx.TransportError as error:
                return Answered(502, body=f"no answer from the registry: {error!r}".encode())
        if response is None:
            return Answered(504, body=b"no answer from the registry in time")
        return _answered(asked.method, response)


def _answered(method: str, response: httpx.Response) -> Answered:
    headers = {name: value for name, value in response.headers.items() if name not in _BY_HOP}
    length = response.headers.get("content-length") if method == "HEAD" else None
    declared = None if length is None else int(length)
    return Answered(response.status_code, headers, response.content, declared=declared)


def logged(log: list[LoggedRequest], asked: Asked) -> LoggedRequest:
    """A request's entry in ``log``."""
    entry = LoggedRequest(
        asked.method, asked.host, asked.path, asked.query, asked.headers, trio.current_time()
    )
    log.append(entry)
    return entry


async def struck(action: Action | None, asked: Asked, entry: LoggedRequest, ask: Any) -> Answered:
    """What ``ask`` answers, with a fault; a fault that denies takes the login away."""
    dropped = action.after if isinstance(action, DropUpload) else None
    asked = replace(asked, body=CountedBody(asked.body, entry, dropped))
    if isinstance(action, Delay):
        await trio.sleep(action.seconds)
    if isinstance(action, Deny):
        asked = replace(asked, headers=_without(asked.headers, "authorization"))
    answered = instead(action)
    if answered is None:
        answered = spoilt(await ask(asked), action)
    return answered


def _without(headers: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


@asynccontextmanager
async def before(
    upstream: str, client: httpx.AsyncClient, tls: ssl.SSLContext
) -> AsyncIterator[Front]:
    """A proxy before ``upstream`` that stands until the block ends."""
    front = Front(upstream, client, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(front.door.serve, front)
        yield front
        nursery.cancel_scope.cancel()
