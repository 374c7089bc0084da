"""A registry double as an httpx transport: no sockets, so that trio's mock clock can be used."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import httpx
import trio

from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest, UploadDropped
from asyncbuild.testing.registry import RegistryDouble

_CHUNK_BYTES = 64 << 10


class DoubleTransport(httpx.AsyncBaseTransport):
    """Every host is the double; ``LoggedRequest.host`` tells which one was meant."""

    def __init__(self, double: RegistryDouble) -> None:
        self.double = double

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; broken connections are httpx's exceptions."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = _Chunks(request.stream)
        asked = Asked(
            request.method,
            request.url.scheme,
            request.url.netloc.decode("ascii"),
            request.url.path,
            request.url.query.decode("ascii"),
            {name.lower(): value for name, value in request.headers.items()},
            body,
        )
        entry = self.double.begin(asked)
        try:
            await trio.lowlevel.checkpoint()
            # sent whole before it is answered, as over sockets
            if request.method in ("GET", "HEAD"):
                async for _ in body:
                    pass
            answered = await self.double.handle(asked, entry)
            async for _ in body:
                pass
        except UploadDropped:
            entry.ended = trio.current_time()
            raise httpx.WriteError("the double dropped the upload") from None
        patience = request.extensions.get("timeout", {}).get("read")
        stream = _AnswerStream(answered, entry, patience, head=request.method == "HEAD")
        if answered.stop == -1:
            await stream.stopped()
        headers = dict(answered.headers)
        if answered.status != 204:
            declared = answered.declared
            headers["content-length"] = str(len(answered.body) if declared is None else declared)
        return httpx.Response(
            answered.status, headers=headers, stream=stream, extensions={"network_stream": stream}
        )


class _Chunks:
    """A request's body that may be read on after someone else has read a part of it."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._iterator = stream.__aiter__()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._iterator.__anext__()


class _AnswerStream(httpx.AsyncByteStream):
    """An answer's body, ending as the double wants it to."""

    def __init__(
        self, answered: Answered, entry: LoggedRequest, patience: float | None, *, head: bool
    ) -> None:
        length = len(answered.body) if answered.declared is None else answered.declared
        self._body = b"" if head else answered.body[:length]
        self._short = not head and length > len(answered.body)
        self._answered = answered
        self._entry = entry
        self._patience = math.inf if patience is None else patience
        self._place = 0
        self._closed = False

    def __aiter__(self) -> _AnswerStream:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise httpx.ReadError("closed")
        stop = self._answered.stop
        end = len(self._body) if stop is None else min(stop, len(self._body))
        chunk = self._body[self._place : min(self._place + _CHUNK_BYTES, end)]
        if chunk:
            self._place += len(chunk)
            self._entry.bytes_out += len(chunk)
            return chunk
        if self._answered.trickle is not None and self._place < len(self._body):
            return await self._next_drop(self._answered.trickle)
        if stop is not None and not (self._answered.trickle and self._place == len(self._body)):
            await self.stopped()
        if self._short:
            raise httpx.RemoteProtocolError("the double sent less than it declared")
        self._entry.ended = trio.current_time()
        raise StopAsyncIteration

    async def _next_drop(self, seconds: float) -> bytes:
        await trio.sleep(seconds)
        self._place += 1
        self._entry.bytes_out += 1
        return self._body[self._place - 1 : self._place]

    async def stopped(self) -> None:
        """Break off; or hang, until the client's read timeout."""
        if self._answered.refused:
            raise httpx.ConnectError("the double refuses the connection")
        if self._answered.hangs:
            await trio.sleep(self._patience)
        self._entry.ended = trio.current_time()
        if self._answered.hangs:
            raise httpx.ReadTimeout("the double hangs")
        if self._answered.garbage:
            raise httpx.RemoteProtocolError("the double speaks no HTTP")
        raise httpx.RemoteProtocolError("the double closed the connection")

    async def aclose(self) -> None:
        """Close the connection."""
        self._closed = True
        if self._entry.ended is None:
            self._entry.ended = trio.current_time()
