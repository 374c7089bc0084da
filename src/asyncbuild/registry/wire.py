"""One HTTP exchange over httpx: sent, answered, counted, logged, its exceptions made ours.

This is the edge where foreign exceptions end: above it there are only `errors.RegistryError`s. An
exchange without an answer is a `NoAnswer`, which says whether asking again can help.

There are limits on connecting, on the time until an answer's headers are there, and on the lack of
progress of a body in either direction (`pace`); none on the whole.
"""

from __future__ import annotations

import contextlib
import math
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import httpx
import trio

from asyncbuild.errors import Exchange, RegistryError, RegistryUnavailable, RemoteProtocolError
from asyncbuild.records import dataclass
from asyncbuild.registry.bodies import Body, Reading
from asyncbuild.registry.encoding import Damaged, inflated, is_encoded
from asyncbuild.registry.network import AddressRefused, HostUnknown, ProxyRefused, TlsRefused
from asyncbuild.registry.pace import Pace, Progress
from asyncbuild.registry.protocol import USER_AGENT, read_words, redact
from asyncbuild.registry.transport import EARLY, Timeouts

ERROR_LIMIT = 64 << 10


@dataclass(frozen=True, slots=True)
class ExchangeRecord:
    """One exchange as it was: the URL redacted, times in seconds of trio's clock, body bytes only.

    ``status`` and ``first_byte`` are None without an answer; ``error`` is "" if it went to its end.
    """

    method: str
    url: str
    status: int | None
    started: float
    first_byte: float | None
    ended: float
    sent: int
    received: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What went over the wire: exchanges, body bytes in both directions, connections opened."""

    requests: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    connections: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.requests + other.requests,
            self.bytes_received + other.bytes_received,
            self.bytes_sent + other.bytes_sent,
            self.connections + other.connections,
        )


OnRequest = Callable[[ExchangeRecord], None]


class NoAnswer(RegistryUnavailable):
    """No whole answer came; ``final`` if asking again cannot help."""

    final = False


class Asked(Protocol):
    """What was asked for; errors show it, and only these take the time to put it into words."""

    @property
    def exchange(self) -> Exchange:
        """The request, and the answer's status if there is one."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request: an absolute URL, headers without those that every request has, a body."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: Body | None = None
    receive_timeout: float | None = None

    @property
    def exchange(self) -> Exchange:
        """As errors show it, without an answer."""
        return Exchange(self.method, redact(self.url))


class _Upload(httpx.AsyncByteStream):
    """A request's body for httpx; counts what went, and sets the deadline of what comes next: of sending
    a chunk that was read, and of the answer once all was sent. Making the chunks may take any time.
    """

    def __init__(self, reading: Reading | None, pace: Pace, answer_seconds: float) -> None:
        self._reading = reading
        self._pace = pace
        self._answer_seconds = answer_seconds
        self.scope = trio.CancelScope()
        self.sent = 0
        self.broken: BaseException | None = None

    def __aiter__(self) -> _Upload:
        return self

    async def __anext__(self) -> bytes:
        self.scope.deadline = math.inf
        try:
            chunk = await self._reading.next_chunk() if self._reading is not None else b""
        except BaseException as error:
            self.broken = error
            raise
        seconds = self._pace.seconds_for(len(chunk)) if chunk else self._answer_seconds
        self.scope.deadline = trio.current_time() + seconds
        if not chunk:
            raise StopAsyncIteration
        self.sent += len(chunk)
        return chunk

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()


class Wire:
    """Sends requests through one transport of httpx, which lives as long as the build.

    What httpx's client does besides is not wanted here and takes a fifth of a request's time: redirects are
    followed elsewhere, and cookies are not kept (docker and containerd keep none).
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        timeouts: Timeouts,
        on_request: OnRequest | None,
        user_agent: str = USER_AGENT,
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace or Pace()
        self._user_agent = user_agent
        self._transport = transport
        self._timeouts = timeouts
        self._on_request = on_request
        self.statistics = Statistics()
        self.quickest = math.inf
        self.answered = trio.Event()
        """Set when the first answer comes to what was not sent in a head start."""

    async def send(self, sent: Sent) -> Answer:
        """Send and return the answer with its body unread; the caller closes it.

        Raises `NoAnswer`. An exception of the request's own body comes through as it is.
        """
        started = trio.current_time()
        reading = sent.body.read() if sent.body is not None else None
        patience = sent.receive_timeout or self._timeouts.receive
        upload = _Upload(reading, self._pace, patience)
        try:
            with no_answer_mapped(sent):
                request = self._request(sent, upload)
            response = await self._receive(sent, request, upload)
        except BaseException as error:
            self._finish(sent, (started, None), None, (upload.sent, 0), _reason(error))
            raise
        finally:
            upload.close()
        first_byte = trio.current_time()
        seconds = response.extensions.get(EARLY)
        if seconds is None:
            seconds = first_byte - started
            self.answered.set()
        self.quickest = min(self.quickest, seconds)

        def finish(received: int, error: str) -> None:
            status = response.status_code
            self._finish(sent, (started, first_byte), status, (upload.sent, received), error)

        return Answer(sent, response, finish, self._pace)

    async def _receive(self, sent: Sent, request: httpx.Request, upload: _Upload) -> httpx.Response:
        response: httpx.Response | None = None
        with no_answer_mapped(sent, upload), upload.scope:
            response = await self._transport.handle_async_request(request)
        if response is None:
            raise NoAnswer("no answer in time", exchange=sent.exchange)
        return response

    def _request(self, sent: Sent, upload: _Upload) -> httpx.Request:
        url = httpx.URL(sent.url)
        headers = [
            ("Host", url.netloc.decode("ascii")),
            ("User-Agent", self._user_agent),
            ("Accept-Encoding", "identity"),
            *sent.headers,
        ]
        if url.userinfo:  # of a place that a registry sends us to
            headers = [item for item in headers if item[0].lower() != "authorization"]
            basic = f"{url.username}:{url.password}".encode()
            headers.append(("Authorization", f"Basic {b64encode(basic).decode()}"))
        if sent.body is not None and sent.body.size is None:
            headers.append(("Transfer-Encoding", "chunked"))
        elif sent.body is not None or sent.method in ("POST", "PUT", "PATCH"):
            size = sent.body.size if sent.body is not None else 0
            headers.append(("Content-Length", str(size)))
        timeouts = self._timeouts
        limits: dict[str, Any] = {
            "connect": timeouts.connect,
            "read": sent.receive_timeout or timeouts.receive,
            "write": timeouts.send,
            "pool": None,
        }
        return httpx.Request(
            sent.method, url, headers=headers, stream=upload, extensions={"timeout": limits}
        )

    def _finish(
        self,
        sent: Sent,
        times: tuple[float, float | None],
        status: int | None,
        moved: tuple[int, int],
        error: str,
    ) -> None:
        self.statistics += Statistics(1, bytes_sent=moved[0], bytes_received=moved[1])
        if self._on_request is None:
            return
        started, first_byte = times
        ended = trio.current_time()
        url = redact(sent.url)
        self._on_request(
            ExchangeRecord(sent.method, url, status, started, first_byte, ended, *moved, error)
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()


class Answer:
    """An answer: status and headers are there, the body is read once, by chunks or whole."""

    def __init__(
        self,
        sent: Sent,
        response: httpx.Response,
        finish: Callable[[int, str], None],
        pace: Pace,
    ) -> None:
        self.sent = sent
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self._finish = finish
        self._progress = Progress(pace)
        self._chunks: AsyncIterator[bytes] | None = None
        self._received = 0
        self._ended = False
        self._error = ""
        self._closed = False

    @property
    def exchange(self) -> Exchange:
        """As errors show it."""
        return Exchange(self.sent.method, redact(self.sent.url), self.status)

    async def next_chunk(self) -> bytes:
        """The next bytes as they came, b"" at the end; raises `NoAnswer` where the connection breaks."""
        if self._ended:
            return b""
        if self._chunks is None:
            self._chunks = self._response.aiter_raw()
        try:
            chunk = await self._wait_chunk(self._chunks)
        except BaseException as error:
            self._ended = True
            self._error = _reason(error)
            raise
        self._received += len(chunk)
        self._ended = not chunk
        return chunk

    async def _wait_chunk(self, chunks: AsyncIterator[bytes]) -> bytes:
        started = trio.current_time()
        with (
            no_answer_mapped(self),
            trio.move_on_after(self._progress.seconds_left) as scope,
        ):
            chunk = await anext(chunks, b"")
        if scope.cancelled_caught:
            raise NoAnswer("the answer came too slowly, or not at all", exchange=self.exchange)
        self._progress.moved(len(chunk), trio.current_time() - started)
        return chunk

    async def read(self, limit: int) -> bytes:
        """The whole body, decoded, and close; `RemoteProtocolError` beyond ``limit`` bytes."""
        parts: list[bytes] = []
        try:
            while chunk := await self.next_chunk():
                parts.append(chunk)
                if self._received > limit:
                    raise RemoteProtocolError(
                        f"an answer of more than {limit} bytes", exchange=self.exchange
                    )
        finally:
            await self.aclose()
        data = b"".join(parts)
        if not (data and is_encoded(self.headers)):
            return data
        try:
            return inflated(data, limit)
        except Damaged as error:
            raise RemoteProtocolError(
                f"an answer that is {error}", exchange=self.exchange
            ) from None

    async def discard(self) -> None:
        """Free the connection, for another request if the body is small; what it says is of no interest."""
        with contextlib.suppress(RegistryError):
            await self.read(ERROR_LIMIT)

    async def failed(self) -> tuple[Exchange, Any]:
        """For an answer that is an error: the exchange with the registry's words, and the words."""
        body = b""
        with contextlib.suppress(RegistryError):
            body = await self.read(ERROR_LIMIT)
        words = read_words(body)
        return Exchange(self.sent.method, redact(self.sent.url), self.status, words.text), words

    async def aclose(self) -> None:
        """Free the connection: for another request if the body was read to its end."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._chunks is not None and not self._ended:
                self._error = "closed early"
                await self._break_off(self._chunks)
        finally:
            self._finish(self._received, self._error)
            with trio.CancelScope(shield=True):
                await self._response.aclose()

    async def _break_off(self, chunks: AsyncIterator[bytes]) -> None:
        """End the generators of httpx and httpcore from within: the connection is closed under them, and
        they unwind on its error. Closed from without, the inner ones are left to the garbage collector.
        """
        stream = self._response.extensions.get("network_stream")
        if stream is not None:
            await stream.aclose()
        with contextlib.suppress(httpx.HTTPError, httpx.StreamError):
            async for _ in chunks:
                pass


@contextlib.contextmanager
def no_answer_mapped(asked: Asked, upload: _Upload | None = None) -> Iterator[None]:
    """Turn httpx's exceptions into `NoAnswer`; those of the request's own body pass."""
    try:
        yield
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        if upload is not None and upload.broken is error:
            raise
        raise _no_answer(asked.exchange, error) from error


def _no_answer(exchange: Exchange, error: Exception) -> NoAnswer:
    cause = error.__cause__
    if isinstance(cause, TlsRefused):
        return _final(
            f"the certificate is not trusted: {error}",
            exchange,
            "name its authority with --registry-ca HOST=FILE or SSL_CERT_FILE, "
            "or use --insecure for a registry that you trust anyway",
        )
    if isinstance(cause, ProxyRefused):
        hint = "HTTP_PROXY, HTTPS_PROXY and NO_PROXY say which proxy is used, and for what not"
        return _final(str(error), exchange, hint)
    if isinstance(cause, AddressRefused):
        return _final(f"the registry leads into this network: {error}", exchange)
    if isinstance(cause, HostUnknown):
        return _final(f"no such host: {error}", exchange)
    if isinstance(error, httpx.TimeoutException):
        return NoAnswer("no answer in time", exchange=exchange)
    if isinstance(error, httpx.ConnectError):
        return NoAnswer(f"no connection: {error}", exchange=exchange)
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return _final(f"not a request: {error}", exchange)
    return NoAnswer(f"the connection broke: {error}", exchange=exchange)


def _final(message: str, exchange: Exchange, hint: str | None = None) -> NoAnswer:
    error = NoAnswer(message, exchange=exchange, hint=hint)
    error.final = True
    return error


def _reason(error: BaseException) -> str:
    if isinstance(error, RegistryError):
        return error.message
    return "cancelled" if isinstance(error, trio.Cancelled) else type(error).__name__
