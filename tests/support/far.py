"""A registry behind the model of a far link, as an httpx transport for trio's mock clock: no byte is real."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import trio
import trio.testing

from asyncbuild.image.digest import Digest
from asyncbuild.testing.linkmodel import Flow, LinkShape, Wire

_PIECE = 128 << 10
_NOTHING = bytes(_PIECE)


async def let_time_pass(clock: trio.testing.MockClock) -> None:
    """As trio's own autojump, but no time passes while a thread works: it would count as the link's."""
    threads = trio.to_thread.current_default_thread_limiter()
    while True:
        await trio.testing.wait_all_tasks_blocked()
        if threads.borrowed_tokens:
            await trio.testing.wait_all_tasks_blocked(0.0001)
        else:
            clock.jump(max(0.0, trio.lowlevel.current_statistics().seconds_to_next_deadline))


@dataclass(slots=True)
class _Connection:
    """One way down the link; requests are taken to cost no bandwidth."""

    flow: Flow
    opened: float
    busy: bool = False
    changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)


class FarRegistry(httpx.AsyncBaseTransport):
    """Has blobs of zeros, of ``sizes`` bytes by their digests, and knows ranges; ``nursery`` sends what was
    asked for.
    """

    def __init__(
        self, shape: LinkShape, sizes: Mapping[Digest, int], nursery: trio.Nursery
    ) -> None:
        self._shape = shape
        self._sizes = sizes
        self._nursery = nursery
        self._wire = Wire(shape.bandwidth)
        self.connections: list[_Connection] = []
        self.requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer's head, when the first byte would be there."""
        self.requests += 1
        connection = next((each for each in self.connections if not each.busy), None)
        connection = connection or self._connect()
        connection.busy = True
        await trio.sleep_until(max(trio.current_time(), connection.opened) + self._shape.delay)
        size = self._sizes[Digest.parse(request.url.path.rpartition("/")[2])]
        first, last, status = 0, size - 1, 200
        headers = {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if asked is not None:
            first, last, status = int(asked[1]), int(asked[2]), 206
            headers["content-range"] = f"bytes {first}-{last}/{size}"
        body = _Body(connection)
        self._nursery.start_soon(body.send, last - first + 1)
        await trio.sleep(self._shape.delay)
        headers["content-length"] = str(last - first + 1)
        return httpx.Response(
            status, headers=headers, stream=body, extensions={"network_stream": body}
        )

    def _connect(self) -> _Connection:
        opened = trio.current_time() + self._shape.rtt
        self.connections.append(_Connection(Flow(self._shape, self._wire), opened))
        return self.connections[-1]


class _Body(httpx.AsyncByteStream):
    """Pieces on their way, each with the time at which it arrives."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._left = 0
        self._send, self._pieces = trio.open_memory_channel[tuple[float, int]](10_000)

    async def send(self, size: int) -> None:
        """Let so many bytes enter the link as the connection's window opens."""
        flow, at = self._connection.flow, trio.current_time()
        self._left = size
        while size:
            opens = flow.opens_at(at)
            if opens is None:
                await self._connection.changed.park()
                at = max(at, trio.current_time())
                continue
            await trio.sleep_until(opens)
            count = min(flow.room(opens), size, _PIECE)
            self._send.send_nowait((flow.send(count, opens), count))
            size, at = size - count, opens

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        arrival, count = await self._pieces.receive()
        await trio.sleep_until(arrival)
        self._left -= count
        self._connection.flow.delivered(count, arrival)
        self._connection.changed.unpark_all()
        self._connection.busy = self._left > 0
        return _NOTHING[:count]

    async def aclose(self) -> None:
        """Nothing is open."""
