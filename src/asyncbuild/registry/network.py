"""Sockets for httpcore under trio, made for large bodies.

httpcore's own backend reads through trio's streams: for TLS that is one 16 KiB record per read, each with
a deadline, a parser call and two checkpoints (82 MB/s here). Ours drains a non-blocking socket, for TLS a
descriptor-based `ssl.SSLSocket`, into a buffer of half a MiB before it returns.

A connection may be *dialled* ahead: the next `connect_tcp` to the same address takes it, TLS included,
unless it has become stale meanwhile.
A backend may reach everything through a proxy's tunnels (CONNECT, RFC 9110, 9.3.6).
"""

# ruff: noqa: ASYNC109 - httpcore hands its timeouts over as arguments.

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import trio

from asyncbuild.registry.headstart import HeadStart
from asyncbuild.registry.proxies import Proxy
from asyncbuild.registry.reach import Guard
from asyncbuild.registry.tls import Trust

READ_BYTES = 512 << 10
_UNSENT_BYTES = 1 << 20
_TCP_NOTSENT_LOWAT = 25
_LONGEST_ANSWER = 64 << 10
STALE_SECONDS = 55.0
"""For how long a connection is good that nobody uses: shorter than what servers and their load balancers
allow (60 s is common).
"""

SocketOptions = Iterable[Any]


class HostUnknown(httpcore.ConnectError):
    """The name does not resolve; asking again does not help."""


class TlsRefused(httpcore.ConnectError):
    """The server's certificate is not trusted; asking again does not help."""


class AddressRefused(httpcore.ConnectError):
    """The name leads to an address that the registry must not send us to; asking again does not help."""


class NotTls(httpcore.ConnectError):
    """The other side does not speak TLS, or broke off while it was agreed upon."""


class ProxyRefused(httpcore.ConnectError):
    """The proxy makes no tunnel, and would not if asked again (403, 407, and their like)."""


class Buffer:
    """The bytes that reads fill, shared by all streams: nobody waits between filling and copying."""

    def __init__(self, size: int = READ_BYTES) -> None:
        self.view = memoryview(bytearray(size))


class SocketStream(httpcore.AsyncNetworkStream):
    """One connected non-blocking socket, plain or TLS. One task at a time."""

    def __init__(self, sock: socket.socket, buffer: Buffer, trust: Trust) -> None:
        self._socket = sock
        self._buffer = buffer
        self._trust = trust
        self._closed = False

    @property
    def is_tls(self) -> bool:
        """Whether the handshake was made."""
        return isinstance(self._socket, ssl.SSLSocket)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        """What has arrived, up to the buffer's size (``max_bytes`` is httpcore's 64 KiB: too few); b""
        at the end. Waits at most ``timeout`` seconds for the first byte.
        """
        await trio.lowlevel.checkpoint()
        while True:
            with _mapped(httpcore.ReadError, httpcore.ReadTimeout):
                self._check_open()
                count, wait_readable = self._drain()
                if count is not None:
                    return bytes(self._buffer.view[:count])
                await self._wait(readable=wait_readable, timeout=timeout)

    def _drain(self) -> tuple[int | None, bool]:
        """Bytes now in the buffer (None: nothing has arrived), and what to wait for then."""
        view, total = self._buffer.view, 0
        try:
            while total < len(view):
                count = self._socket.recv_into(view[total:])
                total += count
                if count == 0:
                    break
        except (BlockingIOError, ssl.SSLWantReadError):
            return total or None, True
        except ssl.SSLWantWriteError:
            return total or None, False
        except OSError:
            if not total:
                raise
        return total, True

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send everything; waits at most ``timeout`` seconds for each piece to go."""
        await trio.lowlevel.checkpoint()
        view = memoryview(buffer)
        while view:
            readable = False
            with _mapped(httpcore.WriteError, httpcore.WriteTimeout):
                self._check_open()
                try:
                    view = view[self._socket.send(view) :]
                    continue
                except (BlockingIOError, ssl.SSLWantWriteError):
                    pass
                except ssl.SSLWantReadError:
                    readable = True
                await self._wait(readable=readable, timeout=timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,  # noqa: ARG002
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> SocketStream:
        """Make the handshake, with our own trust: ``ssl_context`` is httpcore's placeholder."""
        if self.is_tls:
            return self
        try:
            with _mapped(httpcore.ConnectError, httpcore.ConnectTimeout):
                context = await self._trust.context()
                self._check_open()
                self._socket.getpeername()  # of one that was reset, ssl would lose the descriptor
                self._socket = context.wrap_socket(
                    self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
                )
                with trio.fail_after(math.inf if timeout is None else timeout):
                    await self._handshake()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _handshake(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        while True:
            try:
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)
            except ssl.SSLCertVerificationError as error:
                raise TlsRefused(error.verify_message or str(error)) from None
            except OSError as error:
                raise NotTls(f"no TLS handshake: {error}") from None
            else:
                return

    async def _wait(self, *, readable: bool, timeout: float | None) -> None:
        wait = trio.lowlevel.wait_readable if readable else trio.lowlevel.wait_writable
        with trio.fail_after(math.inf if timeout is None else timeout):
            await wait(self._socket)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError

    async def aclose(self) -> None:
        """Close at once, without TLS's farewell: HTTP says itself where a message ends."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        """``ssl_object``, ``socket``, and ``is_readable``: whether an idle connection is of no use."""
        if info == "ssl_object":
            return self._socket if self.is_tls else None
        if info == "socket":
            return self._socket
        if info == "is_readable":
            return not self._is_idle()
        return None

    def _is_idle(self) -> bool:
        """Whether nothing has arrived. A TLS server may have sent session tickets: they are taken."""
        if self._closed:
            return False
        try:
            self._socket.recv_into(self._buffer.view[:1])
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False


@contextlib.contextmanager
def _mapped(broken: type[Exception], late: type[Exception]) -> Iterator[None]:
    try:
        yield
    except trio.TooSlowError as error:
        raise late(str(error)) from None
    except (OSError, trio.ClosedResourceError, trio.BrokenResourceError) as error:
        raise broken(str(error) or type(error).__name__) from None


class _Dialled:
    """A connection that was begun ahead; ``stream`` is None while it is made, and if that failed."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.stream: SocketStream | None = None
        self._since = trio.current_time()

    @property
    def is_usable(self) -> bool:
        """Whether it was made, is young enough, and nothing has come over it: then it would be closed."""
        young = trio.current_time() - self._since < STALE_SECONDS
        return self.stream is not None and young and not self.stream.get_extra_info("is_readable")


class SocketBackend(httpcore.AsyncNetworkBackend):
    """Opens `SocketStream`s, through tunnels of ``proxy`` if there is one; those that were dialled ahead
    are handed out first.
    """

    def __init__(
        self,
        trust: Trust,
        proxy: Proxy | None = None,
        guard: Guard | None = None,
        head_start: HeadStart | None = None,
    ) -> None:
        self.trust = trust
        self._guard = guard
        self._head_start = head_start
        self._proxy = proxy
        self.connections = 0
        self.begun = 0
        """Connections that were begun, whatever became of them."""
        self._buffer = Buffer()
        self._dialled: dict[tuple[str, int], list[_Dialled]] = {}
        self._closed = False

    async def dial(self, host: str, port: int, *, tls: bool, timeout: float) -> None:
        """Open a connection for the next `connect_tcp` to ``host`` and ``port``; raises as that does."""
        place = _Dialled()
        self._dialled.setdefault((host, port), []).append(place)
        try:
            stream = await self._open(host, port, timeout=timeout)
            if tls:
                await stream.start_tls(PLACEHOLDER, host, timeout)
            if self._closed:
                await stream.aclose()
            else:
                place.stream = stream
        finally:
            place.done.set()
            if place.stream is None:
                self._forget((host, port), place)

    def _forget(self, key: tuple[str, int], place: _Dialled) -> None:
        with contextlib.suppress(ValueError):
            self._dialled[key].remove(place)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> SocketStream:
        """A dialled connection if there is one (waiting for it if it is being made), else a new one."""
        places = self._dialled.get((host, port), [])
        while places:
            place = places.pop(0)  # the first of them is done first
            try:
                await place.done.wait()
            except trio.Cancelled:
                places.insert(0, place)
                raise
            if place.stream is not None:
                if place.is_usable:
                    return place.stream
                await place.stream.aclose()
        return await self._open(host, port, timeout, local_address, socket_options or ())

    async def _open(
        self,
        host: str,
        port: int,
        timeout: float | None,
        local_address: str | None = None,
        socket_options: SocketOptions = (),
    ) -> SocketStream:
        self.begun += 1
        if self._proxy is None:
            early = self._early(host, port)
            if early is not None:
                return early
            return await self._connect(host, port, timeout, local_address, socket_options)
        proxy = self._proxy
        stream = await self._connect(proxy.host, proxy.port, timeout, local_address, socket_options)
        try:
            with _mapped(httpcore.ConnectError, httpcore.ConnectTimeout):
                await _ask_for_tunnel(stream, proxy, host, port, timeout)
        except BaseException:
            await stream.aclose()
            raise
        return stream

    def _early(self, host: str, port: int) -> SocketStream | None:
        """A connection that a head start has left over, if it may and can be used."""
        while self._head_start is not None:
            sock = self._head_start.connection(host, port)
            if sock is None:
                return None
            sock.settimeout(0)
            stream = SocketStream(sock, self._buffer, self.trust)
            with contextlib.suppress(OSError):
                reached = sock.getpeername()[0]
                refused = self._guard is not None and self._guard.refuses(host, reached)
                if not refused and not stream.get_extra_info("is_readable"):
                    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
                    self.connections += 1
                    return stream
            sock.close()
        return None

    async def _connect(
        self,
        host: str,
        port: int,
        timeout: float | None,
        local_address: str | None,
        socket_options: SocketOptions,
    ) -> SocketStream:
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                opened = await trio.open_tcp_stream(host, port, local_address=local_address)
        except trio.TooSlowError:
            raise httpcore.ConnectTimeout("no connection in time") from None
        except socket.gaierror as error:
            kind = HostUnknown if error.errno == socket.EAI_NONAME else httpcore.ConnectError
            raise kind(error.strerror or str(error)) from None
        except OSError as error:
            raise httpcore.ConnectError(_first_reason(error)) from None
        self.connections += 1
        if self._proxy is None and self._guard is not None:
            await self._check_reach(host, opened, self._guard)
        sock = socket.socket(fileno=opened.socket.detach())
        sock.settimeout(0)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # trio asks to be woken when 16 KiB are left to send: too late for a MiB at a time.
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        for option in socket_options:
            sock.setsockopt(*option)
        return SocketStream(sock, self._buffer, self.trust)

    async def _check_reach(self, host: str, opened: trio.SocketStream, guard: Guard) -> None:
        """Close the connection and raise if it leads where ``host`` must not lead us."""
        error: httpcore.ConnectError
        try:
            reached = opened.socket.getpeername()[0]
        except OSError as gone:  # the other side has reset it already
            error = httpcore.ConnectError(gone.strerror or str(gone))
        else:
            if not guard.refuses(host, reached):
                return
            error = AddressRefused(f"{host} is {reached}, inside this network")
        await trio.aclose_forcefully(opened)
        raise error

    async def sleep(self, seconds: float) -> None:
        """Sleep under trio."""
        await trio.sleep(seconds)

    async def aclose(self) -> None:
        """Close what was dialled and never used."""
        self._closed = True
        for places in self._dialled.values():
            for place in places:
                if place.stream is not None:
                    await place.stream.aclose()
        self._dialled.clear()


async def _ask_for_tunnel(
    stream: SocketStream, proxy: Proxy, host: str, port: int, timeout: float | None
) -> None:
    """CONNECT: after an answer of 2xx the stream's other end is ``host``."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await stream.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"), timeout)
    answer = b""
    while b"\r\n\r\n" not in answer:
        received = await stream.read(READ_BYTES, timeout)
        answer += received
        if not received or len(answer) > _LONGEST_ANSWER:
            raise httpcore.ConnectError(f"the proxy {proxy} answers with what is no HTTP")
    match = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    status = int(match[1]) if match else 0
    if not 200 <= status < 300:
        kind = ProxyRefused if 400 <= status < 500 else httpcore.ConnectError
        raise kind(f"the proxy {proxy} makes no connection to {place}: {status or 'no HTTP'}")


PLACEHOLDER = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""What httpcore is given instead of a context that would cost time: never used for a connection."""


def _first_reason(error: BaseException) -> str:
    """The reason in an error of `trio.open_tcp_stream`, which tries several addresses."""
    while isinstance(error.__cause__, BaseException):
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
