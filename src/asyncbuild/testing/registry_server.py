"""A registry double, or what else answers like one, on a loopback port: HTTP/1.1 by h11 on trio, with or
without TLS.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Protocol

import h11
import trio

from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest, UploadDropped
from asyncbuild.testing.registry import RegistryDouble

_READ_BYTES = 1 << 20
_SEND_BYTES = 1 << 20


class Answering(Protocol):
    """What is asked, and answers: a `RegistryDouble`, a proxy before a real registry."""

    def begin(self, asked: Asked) -> LoggedRequest:
        """Write a request down; the server fills the entry in."""

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer it; raises `UploadDropped` where the connection is to be closed at once."""


class _Gone(Exception):
    """The connection is over."""


@contextlib.asynccontextmanager
async def serving(
    double: RegistryDouble, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[str]:
    """Serve ``double`` on 127.0.0.1 until the block ends; gives ``host:port``.

    Every connection is closed at the end. An exception of the block comes out as it is.
    """

    async def handler(stream: trio.abc.Stream) -> None:
        await serve_connection(double, stream, "http" if tls is None else "https")

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    served: list[Any] = listeners  # of one kind or the other: trio's types want to know which
    if tls is not None:
        served = [trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners]
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, handler, served)
            yield f"127.0.0.1:{port}"
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


async def serve_connection(answering: Answering, stream: trio.abc.Stream, scheme: str) -> None:
    """Answer one client's requests until it goes, or a fault closes the connection."""
    await _Connection(answering, stream, scheme).serve()


class _Connection:
    """One client: requests one after another, answered by the double."""

    def __init__(self, answering: Answering, stream: trio.abc.Stream, scheme: str) -> None:
        self._answering = answering
        self._stream = stream
        self._scheme = scheme
        self._h11 = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        """Until the client goes, or a fault closes the connection."""
        broken = (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError)
        with contextlib.suppress(_Gone, *broken):
            while True:
                await self._one()
                self._h11.start_next_cycle()
        await trio.aclose_forcefully(self._stream)

    async def _one(self) -> None:
        event = await self._event()
        if not isinstance(event, h11.Request):
            raise _Gone
        target, _, query = event.target.decode("ascii").partition("?")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        method = event.method.decode("ascii")
        body = _Body(self)
        host = headers.get("host", "")
        asked = Asked(method, self._scheme, host, target, query, headers, body)
        entry = self._answering.begin(asked)
        try:
            answered = await self._answering.handle(asked, entry)
            async for _ in body:
                pass
            await self._answer(answered, entry, head=method == "HEAD")
        except UploadDropped:
            raise _Gone from None
        finally:
            entry.ended = trio.current_time()

    async def _event(self) -> object:
        while True:
            if self._h11.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._send(go_on)
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._h11.receive_data(bytes(await self._stream.receive_some(_READ_BYTES)))

    async def next_of_body(self) -> bytes:
        """The next bytes of the request's body, b"" at its end."""
        event = await self._event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            return b""
        raise _Gone

    async def _answer(self, answered: Answered, entry: LoggedRequest, *, head: bool) -> None:
        if answered.stop == -1:
            await self._stop(answered)
        body = b"" if head else answered.body
        declared = len(answered.body) if answered.declared is None else answered.declared
        headers = [*answered.headers.items(), ("content-length", str(declared))]
        if answered.status == 204:
            headers.pop()
        reason = HTTPStatus(answered.status).phrase.encode()
        await self._send(h11.Response(status_code=answered.status, headers=headers, reason=reason))
        end = len(body) if answered.stop is None else min(answered.stop, len(body))
        view = memoryview(body)[: min(end, declared)]
        for place in range(0, len(view), _SEND_BYTES):
            chunk = view[place : place + _SEND_BYTES]
            await self._send(h11.Data(data=bytes(chunk)))
            entry.bytes_out += len(chunk)
        if answered.trickle is not None:
            for place in range(end, len(body)):
                await trio.sleep(answered.trickle)
                await self._send(h11.Data(data=body[place : place + 1]))
        elif answered.stop is not None:
            await self._stop(answered)
        if len(body) != declared and not head:
            await self._stream.send_all(body[declared:])
            raise _Gone
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            await self._stream.send_all(data)

    async def _stop(self, answered: Answered) -> None:
        """Break off, perhaps with a last word; or wait until the client goes away."""
        if answered.garbage:
            await self._stream.send_all(answered.garbage)
        while answered.hangs and await self._stream.receive_some(_READ_BYTES):
            pass
        raise _Gone


class _Body:
    """A request's body. Not a generator, so it may be left half read."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = b"" if self._ended else await self._connection.next_of_body()
        self._ended = not chunk
        if self._ended:
            raise StopAsyncIteration
        return chunk
