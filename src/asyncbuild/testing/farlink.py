"""A far-away registry on this machine: a TCP relay that behaves like a long, fat, or thin link.

``python -m asyncbuild.testing.farlink --listen 127.0.0.1:5001 --upstream 127.0.0.1:5000 --rtt 0.1``
relays every connection to a real registry beside it. Bytes are held back as `linkmodel` says: delay,
bandwidth of the link and of each connection, slow start and window per connection and direction, one
round trip to set a connection up. A relay that only delayed would end TCP locally and hide the windows.
With ``--tls`` the relay is the TLS server at the far side, so that handshakes pass through the link;
with ``--token-listen`` and ``--blob-listen`` it plays a bearer-token host and a second host to which
blobs are redirected.

Every HTTP request becomes one JSON line in ``--log``; its times are those of the near end, in seconds
of the clock that ``time.time()`` reads. Every connection becomes one line when it is closed.

A connecting client sees its connect() succeed at once; the round trip is charged to its first byte
instead.
"""

from __future__ import annotations

import argparse
import math
import signal
import ssl
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from asyncbuild.testing.fargate import BearerGate, Gate, RedirectGate, TokenHost, first_answer
from asyncbuild.testing.farlog import Connection, Log
from asyncbuild.testing.httpscan import End, Head, Part, Scanner, request_framing
from asyncbuild.testing.linkmodel import Flow, LinkShape, Wire

#: Bytes read from a socket at once; also the largest piece that enters the link.
PIECE = 256 * 1024

Connect = Callable[[], Awaitable[trio.abc.Stream]]


class Link:
    """Both directions of one link, shared by every connection that is relayed over it."""

    def __init__(self, shape: LinkShape) -> None:
        self.shape = shape
        self.up = Wire(shape.bandwidth)
        self.down = Wire(shape.bandwidth)


class FarEnd(trio.abc.Stream):
    """The far end of one connection over the link, as a stream; `run` moves its bytes to and from the
    near end.

    ``receive_some`` gives what the near end sent, when it arrives. ``send_all`` returns when all has
    entered the link; ``first_arrival`` and ``last_arrival`` then say when its bytes reach the near end.
    """

    def __init__(self, near: trio.abc.Stream, link: Link) -> None:
        self._near = near
        self._delay = link.shape.delay
        opened = trio.current_time() + link.shape.rtt if link.shape.rtt else -math.inf
        self._up = _Lane(Flow(link.shape, link.up, opened))
        self._down = _Lane(Flow(link.shape, link.down))
        self._rest: tuple[float, memoryview] | None = None
        self.first_arrival = self.last_arrival = -math.inf

    async def run(self) -> None:
        """Move bytes until both directions have ended; raises what the near end's stream raises."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_near)
            nursery.start_soon(self._write_near)

    async def _read_near(self) -> None:
        while data := await self._near.receive_some(PIECE):
            await self._up.enter(data, trio.current_time())
        self._up.finish(trio.current_time() + self._delay)

    async def _write_near(self) -> None:
        while True:
            waiting_since = trio.current_time()
            arrival, piece = await self._down.next_arrival()
            if not piece:
                break
            await self._near.send_all(piece)
            self._down.taken(len(piece), max(arrival, waiting_since))
        if isinstance(self._near, trio.abc.HalfCloseableStream):
            await self._near.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes that have arrived, at most ``max_bytes``; empty when the near end has closed."""
        waiting_since = trio.current_time()
        if self._rest is None:
            self._rest = await self._up.next_arrival()
        else:
            await trio.lowlevel.checkpoint()
        arrival, piece = self._rest
        count = len(piece) if max_bytes is None else min(max_bytes, len(piece))
        self._up.taken(count, max(arrival, waiting_since))
        self._rest = (arrival, piece[count:]) if count < len(piece) or not piece else None
        return bytes(piece[:count])

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Let ``data`` enter the link as the window opens."""
        self.first_arrival, self.last_arrival = await self._down.enter(data, trio.current_time())

    async def wait_send_all_might_not_block(self) -> None:
        """Nothing to wait for: `send_all` waits for the window itself."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """No more bytes go to the near end."""
        await trio.lowlevel.checkpoint()
        self._down.finish(max(self.last_arrival, trio.current_time() + self._delay))

    async def aclose(self) -> None:
        """Close the near end."""
        await self._near.aclose()


class _Lane:
    """One direction of one connection: its flow, and the pieces that are on their way."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._travelling: deque[tuple[float, memoryview]] = deque()
        self._changed = trio.lowlevel.ParkingLot()

    async def enter(
        self, data: bytes | bytearray | memoryview, ready: float
    ) -> tuple[float, float]:
        """Let ``data``, there since ``ready``, enter; returns when its first and its last byte
        arrive.
        """
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        first = last = ready
        at = ready
        while view:
            opens = self._flow.opens_at(at)
            if opens is None:
                await self._changed.park()
                continue
            if opens > trio.current_time():
                await trio.sleep_until(opens)
            at = opens
            count = min(self._flow.room(at), len(view), PIECE)
            last = self._flow.send(count, at)
            first = last if first == ready else first
            self._travelling.append((last, view[:count]))
            self._changed.unpark_all()
            view = view[count:]
        return first, last

    def finish(self, arrival: float) -> None:
        """The sender has closed: an empty piece says so to the other side."""
        after = self._travelling[-1][0] if self._travelling else arrival
        self._travelling.append((max(arrival, after), memoryview(b"")))
        self._changed.unpark_all()

    async def next_arrival(self) -> tuple[float, memoryview]:
        """The next piece, once it has arrived, and when that was; empty at the end."""
        while not self._travelling:
            await self._changed.park()
        arrival, piece = self._travelling.popleft()
        await trio.sleep_until(arrival)
        return arrival, piece

    def taken(self, size: int, at: float) -> None:
        """The receiver has taken ``size`` bytes at ``at``."""
        self._flow.delivered(size, at)
        self._changed.unpark_all()


@dataclass(slots=True)
class Relay:
    """What one listener does with its connections.

    ``connect`` dials the registry beside the relay; the first of ``gates`` that has an answer to a
    request gives it in the registry's place; ``tls`` makes the relay the TLS server of the far side.
    """

    link: Link
    connect: Connect
    log: Log
    name: str = "registry"
    gates: Sequence[Gate] = ()
    tls: ssl.SSLContext | None = None
    connections: int = 0

    async def serve(self, near: trio.abc.Stream) -> None:
        """Relay one connection until either side closes it."""
        self.connections += 1
        connection = Connection(self.name, self.connections, self.log, trio.current_time())
        end = FarEnd(near, self.link)
        try:
            async with near, trio.open_nursery() as nursery:
                nursery.start_soon(end.run)
                await self._relay(end, connection)
                await end.send_eof()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError):
            pass  # one side has hung up: so does the other
        finally:
            connection.close(trio.current_time())

    async def _relay(self, end: FarEnd, connection: Connection) -> None:
        far: trio.abc.Stream = end
        if self.tls is not None:
            far = trio.SSLStream(end, self.tls, server_side=True, https_compatible=True)
        upstream = await self.connect()
        async with upstream, trio.open_nursery() as nursery:
            talk = _Talk(far, end, upstream, connection)
            nursery.start_soon(talk.requests, self.gates, self.link.shape.delay)
            await talk.responses()
            nursery.cancel_scope.cancel()


@dataclass(slots=True)
class _Talk:
    """The two directions of one relayed connection at its far end."""

    far: trio.abc.Stream
    end: FarEnd
    upstream: trio.abc.Stream
    connection: Connection

    async def requests(self, gates: Sequence[Gate], delay: float) -> None:
        """Pass requests on, but for those that a gate answers."""
        scanner = Scanner(request_framing)
        answer: bytes | None = None
        while data := await self.far.receive_some(PIECE):
            passed = bytearray()
            for part in scanner.feed(data):
                self.connection.request(part, trio.current_time() - delay)
                if isinstance(part, Head):
                    answer = first_answer(gates, part)
                if answer is not None and isinstance(part, End):
                    await self._say(answer)
                    answer = None
                elif gates and answer is None and not isinstance(part, End):
                    passed += part.raw
            await self.upstream.send_all(passed if gates else data)
        if isinstance(self.upstream, trio.abc.HalfCloseableStream):
            await self.upstream.send_eof()

    async def _say(self, answer: bytes) -> None:
        await self.far.send_all(answer)
        self._note(Scanner(self.connection.response_framing).feed(answer))

    async def responses(self) -> None:
        """Pass responses on until the registry closes."""
        scanner = Scanner(self.connection.response_framing)
        while data := await self.upstream.receive_some(PIECE):
            await self.far.send_all(data)
            self._note(scanner.feed(data))
        self._note(scanner.close())

    def _note(self, parts: list[Part]) -> None:
        for part in parts:
            self.connection.response(part, self.end.first_arrival, self.end.last_arrival)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line's meaning; every address is ``host:port``, port 0 takes a free one."""
    parser = argparse.ArgumentParser(
        prog="python -m asyncbuild.testing.farlink", description=__doc__
    )
    add = parser.add_argument
    add("--listen", type=_address, required=True, help="the near end of the registry")
    add("--upstream", type=_address, required=True, help="the registry beside the relay")
    add("--rtt", type=float, default=0.0, help="seconds there and back")
    add(
        "--bandwidth",
        type=float,
        default=0.0,
        help="of the link, bytes a second and direction; 0: no limit",
    )
    add("--per-connection", type=float, default=0.0, help="of each connection; 0: no limit")
    add("--window", type=int, default=LinkShape().window, help="largest window, in bytes")
    add(
        "--keep-window",
        action="store_true",
        help="do not let the window of an idle connection collapse",
    )
    add(
        "--tls",
        nargs=2,
        metavar=("CERT", "KEY"),
        help="speak TLS at the far side with these PEM files",
    )
    add("--token-listen", type=_address, help="ask for bearer tokens, and give them here")
    add("--blob-listen", type=_address, help="redirect GETs of blobs to this second host")
    add("--log", help="file for the JSON lines; without it they go to standard output")
    return parser.parse_args(arguments)


def _relays(options: argparse.Namespace, log: Log) -> dict[tuple[str, int], Relay]:
    """The relay of each listening address."""
    shape = LinkShape(
        rtt=options.rtt,
        bandwidth=options.bandwidth,
        per_connection=options.per_connection,
        window=options.window,
        collapses_when_idle=not options.keep_window,
    )
    link = Link(shape)
    tls = None
    if options.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*options.tls)

    async def connect() -> trio.abc.Stream:
        return await trio.open_tcp_stream(*options.upstream)

    scheme = "https" if tls else "http"
    gates: list[Gate] = []
    relays = {}
    if options.token_listen:
        host, port = options.token_listen
        gates.append(BearerGate(f"{scheme}://{host}:{port}/token"))
        relays[options.token_listen] = Relay(link, connect, log, "token", [TokenHost()], tls)
    if options.blob_listen:
        host, port = options.blob_listen
        gates.append(RedirectGate(f"{scheme}://{host}:{port}"))
        relays[options.blob_listen] = Relay(link, connect, log, "blobs", [], tls)
    relays[options.listen] = Relay(link, connect, log, "registry", gates, tls)
    return relays


async def _serve(options: argparse.Namespace, log: Log) -> None:
    """Listen until the process is asked to end."""
    async with trio.open_nursery() as nursery:
        for (host, port), relay in _relays(options, log).items():
            listeners = await trio.open_tcp_listeners(port, host=host)
            actual = listeners[0].socket.getsockname()[1]
            print(f"{relay.name} {host}:{actual}", flush=True)  # noqa: T201 - what a caller waits for
            nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()


def main(arguments: list[str] | None = None) -> None:
    """Run the relay until SIGTERM or SIGINT."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)

    async def run() -> None:
        epoch = time.time() - trio.current_time()
        if options.log is None:
            await _serve(options, Log(sys.stdout, epoch))
            return
        with open(options.log, "w", buffering=1, encoding="utf-8") as sink:  # noqa: ASYNC230 - once, at the start
            await _serve(options, Log(sink, epoch))

    trio.run(run)


if __name__ == "__main__":
    main()
