"""HTTP/1.1 over one connection: a request, its answer in chunks, and the next request.

h11 says what the bytes mean; this brings them from the socket to h11 and back. httpcore's own connection
does the same through locks, traces, and generators around each chunk, which cost as much as h11.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterable, Mapping
from typing import NamedTuple, cast

import h11
import httpcore

from asyncbuild.records import dataclass

_LARGEST_HEAD = 100 << 10
_READ_BYTES = 512 << 10


class Origin(NamedTuple):
    """Where a connection leads: a host, or a proxy that is asked for the whole URL."""

    tls: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent to ``origin``. ``timeouts`` are httpx's: seconds to ``connect``, to ``write`` a piece,
    to ``read`` the next bytes.
    """

    method: str
    origin: Origin
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: AsyncIterable[bytes]
    timeouts: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer."""

    status: int
    headers: list[tuple[bytes, bytes]]


class Connection:
    """One task at a time. Errors are httpcore's; after one, or a cancellation, it is to be closed."""

    def __init__(self, origin: Origin, stream: httpcore.AsyncNetworkStream) -> None:
        self.origin = origin
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEAD)
        self._read_timeout: float | None = None
        self._idle_since = 0.0

    async def exchange(self, request: Request) -> Head:
        """Send a request; returns when the head of its answer is here."""
        self._read_timeout = request.timeouts.get("read")
        with contextlib.suppress(httpcore.WriteError):  # who closes early may have answered before
            await self._send(request)
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return Head(event.status_code, event.headers.raw_items())

    async def next_chunk(self) -> bytes:
        """The next bytes of the answer's body, b"" at its end."""
        while True:
            event = await self._next_event()
            if not isinstance(event, h11.Data):
                return b""
            if event.data:
                return bytes(event.data)

    def begin_again(self) -> bool:
        """Get ready for another request; False if this one is not over, or was the last."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self._idle_since = time.monotonic()
        return True

    def is_good(self, stale_seconds: float) -> bool:
        """Whether it can be used after it was idle: the other side would have said that it is the end."""
        young = time.monotonic() - self._idle_since < stale_seconds
        return young and not self.stream.get_extra_info("is_readable")

    async def aclose(self) -> None:
        """Close at once."""
        await self.stream.aclose()

    async def _send(self, request: Request) -> None:
        timeout = request.timeouts.get("write")
        try:
            head = h11.Request(
                method=request.method, target=request.target, headers=request.headers
            )
            await self.stream.write(self._http.send(head) or b"", timeout)
            async for chunk in request.body:
                await self.stream.write(self._http.send(h11.Data(data=chunk)) or b"", timeout)
            if end := self._http.send(h11.EndOfMessage()):
                await self.stream.write(end, timeout)
        except h11.LocalProtocolError as error:
            raise httpcore.LocalProtocolError(str(error)) from error

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise httpcore.RemoteProtocolError(str(error)) from error
            if event is not h11.NEED_DATA:
                return cast("h11.Event", event)
            data = await self.stream.read(_READ_BYTES, self._read_timeout)
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise httpcore.RemoteProtocolError(
                    "the server ended the connection without an answer"
                )
            self._http.receive_data(data)
