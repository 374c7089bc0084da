"""The pool of connections, over real sockets to a small server in this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import httpcore
import pytest
import trio
import trio.testing

from asyncbuild.registry.authorities import TrustSettings
from asyncbuild.registry.network import PLACEHOLDER, SocketBackend
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

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        async with stream:
            received = b""
            while piece := await stream.receive_some():
                received += piece
                while b"\r\n\r\n" in received:
                    _, _, received = received.partition(b"\r\n\r\n")
                    self.waiting += 1
                    await self.gate.wait()
                    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    if self.goodbye:
                        return


class Watched(ConnectionPool):
    """Counts how often a connection is asked whether it is still good."""

    asked = 0

    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        """One that tells the pool when it is asked."""
        connection = super().create_connection(origin)
        expired = connection.has_expired

        def has_expired() -> bool:
            self.asked += 1
            return expired()

        connection.has_expired = has_expired  # type: ignore[method-assign]
        return connection


class Nothing:
    """An empty body, as `Wire`'s no generator: a cancellation would leave that to the garbage collector."""

    def __aiter__(self) -> Nothing:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


async def get(pool: ConnectionPool, url: str) -> bytes:
    """The body of the answer."""
    headers = [(b"Host", b"there")]
    answer = await pool.handle_async_request(
        httpcore.Request("GET", url, headers=headers, content=Nothing())
    )
    try:
        return await answer.aread()
    finally:
        await answer.aclose()


Use = Callable[[Watched, Server, list[str]], Awaitable[None]]


def with_pool(use: Use, most: int = 100, servers: int = 1) -> None:
    """Run ``use`` with a pool of at most ``most`` connections, a server, and its addresses."""

    async def main() -> None:
        server = Server()
        backend = SocketBackend(Trust(TrustSettings()))
        pool = Watched(ssl_context=PLACEHOLDER, max_connections=most, network_backend=backend)
        async with trio.open_nursery() as nursery:
            urls = []
            for _ in range(servers):
                serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
                listeners: list[trio.SocketListener] = await nursery.start(serve)
                urls.append(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/")
            with trio.fail_after(60):
                async with pool:
                    await use(pool, server, urls)
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


def test_the_work_of_a_request_does_not_grow_with_the_connections() -> None:
    """Each request that finds a connection asks of that one whether it is good, whoever else is idle."""

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
        origins = {str(item).partition("'")[2].partition("'")[0] for item in pool.connections}
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
