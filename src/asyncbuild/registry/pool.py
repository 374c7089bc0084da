"""Connections to hosts, kept for the next requests.

A request takes the connection that was used last: its windows are still open, and it is asked, alone,
whether it is still good. Where there may be no more connections requests wait in their order; who gives one
back hands it over.
"""

from __future__ import annotations

from collections import defaultdict, deque

import httpcore
import trio

from asyncbuild.registry.http11 import Connection, Head, Origin, Request
from asyncbuild.registry.network import PLACEHOLDER, STALE_SECONDS, SocketBackend


class Reply:
    """An answer whose body is to be read, chunk by chunk, and which is to be closed in any case."""

    def __init__(self, pool: ConnectionPool, connection: Connection, head: Head) -> None:
        self.status = head.status
        self.headers = head.headers
        self.stream = connection.stream
        self._pool = pool
        self._connection: Connection | None = connection

    async def next_chunk(self) -> bytes:
        """The next bytes, b"" at the end; after an error the connection is closed."""
        if self._connection is None:
            return b""
        try:
            return await self._connection.next_chunk()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Let others have the connection, if all of the answer was read; close it if not."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._pool.give_back(connection)


class _Place:
    """In the queue: for whom, and what was handed over: a connection, or the room for a new one."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.granted = trio.Event()
        self.connection: Connection | None = None


class ConnectionPool:
    """At most ``most`` connections at once, of whatever origins."""

    def __init__(self, backend: SocketBackend, most: int) -> None:
        self._backend = backend
        self._most = most
        self._count = 0
        self._connections: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = defaultdict(list)
        self._waiting: deque[_Place] = deque()

    @property
    def connections(self) -> frozenset[Connection]:
        """Those that are open."""
        return frozenset(self._connections)

    async def send(self, request: Request) -> Reply:
        """Send a request and return when its answer begins; errors are httpcore's, or its body's."""
        connection = await self._take(request)
        try:
            head = await connection.exchange(request)
        except BaseException:
            await self._close(connection)
            raise
        return Reply(self, connection, head)

    async def give_back(self, connection: Connection) -> None:
        """Nobody uses the connection any more."""
        if connection not in self._connections:
            return  # the pool was closed meanwhile
        if connection.begin_again():
            await self._hand_over(connection)
        else:
            await self._close(connection)

    async def aclose(self) -> None:
        """Close every connection."""
        for connection in tuple(self._connections):
            await connection.aclose()
        self._connections.clear()
        self._idle.clear()

    async def _hand_over(self, connection: Connection) -> None:
        """Give a connection that is ready to who waits first, or keep it."""
        if not self._waiting:
            self._idle[connection.origin].append(connection)
        elif self._waiting[0].origin == connection.origin:
            place = self._waiting.popleft()
            place.connection = connection
            place.granted.set()
        else:
            await self._close(connection)

    async def _take(self, request: Request) -> Connection:
        origin = request.origin
        found = await self._usable(origin)
        if found is not None:
            return found
        if self._count >= self._most:
            await self._make_room()
        if self._count < self._most:
            self._count += 1
        else:
            found = await self._wait(origin)
        return found or await self._open(request)

    async def _usable(self, origin: Origin) -> Connection | None:
        """The idle connection to ``origin`` that was used last and is still good."""
        idle = self._idle[origin]
        while idle:
            connection = idle.pop()
            if connection.is_good(STALE_SECONDS):
                return connection
            await self._close(connection)
        return None

    async def _make_room(self) -> None:
        """Close a connection that nobody uses, of another origin."""
        for idle in self._idle.values():
            if idle:
                await self._close(idle.pop(0))
                return

    async def _wait(self, origin: Origin) -> Connection | None:
        """A connection that somebody gave back; None: there is room for a new one, which is counted."""
        place = _Place(origin)
        self._waiting.append(place)
        try:
            await place.granted.wait()
        except BaseException:  # perhaps it was granted in the moment of the cancellation
            if place.connection is not None:
                await self._hand_over(place.connection)
            elif place.granted.is_set():
                self._leave_room()
            else:
                self._waiting.remove(place)
            raise
        return place.connection

    async def _open(self, request: Request) -> Connection:
        """A new connection, which is counted already."""
        tls, host, port = request.origin
        timeout = request.timeouts.get("connect")
        try:
            stream: httpcore.AsyncNetworkStream
            stream = await self._backend.connect_tcp(host, port, timeout)
            if tls:
                stream = await stream.start_tls(PLACEHOLDER, host, timeout)
        except BaseException:
            self._leave_room()
            raise
        connection = Connection(request.origin, stream)
        self._connections.add(connection)
        return connection

    async def _close(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._leave_room()
        await connection.aclose()

    def _leave_room(self) -> None:
        """There is one connection less: who waits may open one."""
        if self._waiting:
            self._waiting.popleft().granted.set()
        else:
            self._count -= 1
