"""The pool of connections, over real sockets to a small server in this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import httpcore
import pytest
import trio
import trio.testing

from asyncbuild.registry.authorities import TrustSettings
from asyncbuild.registry.http11 import Connection, Origin, Request
from asyncbuild.registry.network import SocketBackend
from asyncbuild.registry.pool import ConnectionPool
from asyncbuild.registry.tls import Trust


class Server:
    """Answers each request when ``gate`` is open; ``goodbye``: ends a connection after one answer without
    having said so.
    """

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.gate.set()
        self.goodbye = False
        self.connections = 0
        self.waiting = 0
        self.asked: list[int] = []
        """The number of the connection of each request."""

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        number = self.connections
        async with stream:
            received = b""
            while piece := await stream.receive_some():
                received += piece
                while b"\r\n\r\n" in received:
                    _, _, received = received.partition(b"\r\n\r\n")
                    self.waiting += 1
                    self.asked.append(number)
                    await self.gate.wait()
                    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    if self.goodbye:
                        return


class Watched(ConnectionPool):
    """Counts how often a connection is asked whether it is still good."""

    asked = 0


class Nothing:
    """An empty body, as `Wire`'s no generator: a cancellation would leave that to the garbage collector."""

    def __aiter__(self) -> Nothing:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


def request(url: str) -> Request:
    """A GET."""
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    origin = Origin(tls=False, host=host, port=int(port))
    return Request("GET", origin, b"/", [(b"Host", b"there")], Nothing(), {})


async def get(pool: ConnectionPool, url: str) -> bytes:
    """The body of the answer."""
    reply = await pool.send(request(url))
    try:
        parts = []
        while chunk := await reply.next_chunk():
            parts.append(chunk)
        return b"".join(parts)
    finally:
        await reply.aclose()


Use = Callable[[Watched, Server, list[str]], Awaitable[None]]


def with_pool(use: Use, most: int = 100, servers: int = 1) -> None:
    """Run ``use`` with a pool of at most ``most`` connections, a server, and its addresses."""

    async def main() -> None:
        server = Server()
        backend = SocketBackend(Trust(TrustSettings()))
        pool = Watched(backend, most)
        async with trio.open_nursery() as nursery:
            urls = []
            for _ in range(servers):
                serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
                listeners: list[trio.SocketListener] = await nursery.start(serve)
                urls.append(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/")
            with trio.fail_after(60):
                await use(pool, server, urls)
                await pool.aclose()
            await backend.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)


async def many(pool: ConnectionPool, url: str, count: int) -> None:
    """So many requests at once, all of them answered."""
    answers: list[bytes] = []

    async def one() -> None:
        answers.append(await get(pool, url))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    assert answers == [b"ok"] * count


def test_the_work_of_a_request_does_not_grow_with_the_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request that finds a connection asks of that one whether it is good, whoever else is idle."""
    is_good = Connection.is_good

    def counted(connection: Connection, stale_seconds: float) -> bool:
        Watched.asked += 1
        return is_good(connection, stale_seconds)

    monkeypatch.setattr(Connection, "is_good", counted)
    monkeypatch.setattr(Watched, "asked", 0)

    async def use(pool: Watched, server: Server, urls: list[str]) -> None:
        server.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(many, pool, urls[0], 40)
            while server.waiting < 40:
                await trio.lowlevel.checkpoint()
            server.gate.set()
        assert server.connections == 40
        assert pool.asked == 0
        for _ in range(20):
            await many(pool, urls[0], 1)
        assert pool.asked == 20
        await many(pool, urls[0], 30)
        assert pool.asked <= 50
        assert server.connections == 40

    with_pool(use)


def test_a_connection_that_the_server_has_ended_is_not_used() -> None:
    """Another one takes its place."""

    async def use(pool: Watched, server: Server, urls: list[str]) -> None:
        server.goodbye = True
        await many(pool, urls[0], 3)
        await trio.testing.wait_all_tasks_blocked(0.05)
        server.goodbye = False
        await many(pool, urls[0], 3)
        await many(pool, urls[0], 1)
        assert 4 <= server.connections <= 6
        assert len(pool.connections) <= 3

    with_pool(use)


def test_requests_wait_for_a_connection() -> None:
    """Never more than so many, and everyone is served."""

    async def use(pool: Watched, server: Server, urls: list[str]) -> None:
        await many(pool, urls[0], 25)
        assert server.connections <= 3
        assert len(pool.connections) <= 3

    with_pool(use, most=3)


def test_an_idle_connection_to_another_host_makes_room() -> None:
    """It is closed where there may be no more."""

    async def use(pool: Watched, server: Server, urls: list[str]) -> None:
        for url in [*urls, *urls]:
            await many(pool, url, 4)
        assert len(pool.connections) <= 2
        origins = {item.origin for item in pool.connections}
        assert len(origins) == 1
        assert server.connections >= 2 * len(urls)

    with_pool(use, most=2, servers=3)


def test_a_request_that_is_cancelled_leaves_room() -> None:
    """While it waits for a connection, and while it waits for its answer."""

    async def use(pool: Watched, server: Server, urls: list[str]) -> None:
        server.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(many, pool, urls[0], 5)
            while server.waiting < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        server.gate.set()
        await many(pool, urls[0], 5)
        assert len(pool.connections) <= 2

    with_pool(use, most=2)


def test_a_host_that_is_not_there() -> None:
    """Its connections count no longer."""

    async def use(pool: Watched, server: Server, urls: list[str]) -> None:
        for _ in range(3):
            with pytest.raises(httpcore.ConnectError):
                await get(pool, "http://127.0.0.1:1/")
        await many(pool, urls[0], 2)
        assert server.connections <= 2

    with_pool(use, most=2)


def test_the_connection_that_was_used_last_is_used_first() -> None:
    """Its windows are open; the others grow old."""

    async def use(pool: Watched, server: Server, urls: list[str]) -> None:
        server.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(many, pool, urls[0], 3)
            while server.waiting < 3:
                await trio.lowlevel.checkpoint()
            server.gate.set()
        server.asked.clear()
        for _ in range(3):
            await many(pool, urls[0], 1)
        assert len(set(server.asked)) == 1

    with_pool(use)


def test_what_comes_in_the_moment_of_a_cancellation_is_not_lost() -> None:
    """A connection, or the room for one: others have it then."""

    async def use(pool: Watched, server: Server, urls: list[str]) -> None:
        for whole in (True, False):
            held = await pool.send(request(urls[0]))
            first = trio.CancelScope()

            async def cancelled(scope: trio.CancelScope = first) -> None:
                with scope:
                    await get(pool, urls[0])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancelled)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(many, pool, urls[0], 2)
                await trio.testing.wait_all_tasks_blocked()
                while whole and await held.next_chunk():
                    pass
                first.cancel()  # it is heard of only when that task runs again
                await held.aclose()
            assert len(pool.connections) == 1

    with_pool(use, most=1)
