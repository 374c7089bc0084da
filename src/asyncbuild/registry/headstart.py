"""A head start: the first requests of a build, sent while most of the program is still being imported.

Importing takes some 0.2 s of processor time, in which a connection to a far registry can be made and one or
two answers be on their way. `HeadStart` does that in threads, over blocking sockets, with nothing but the
standard library. The program then finds the answer to a request that it would send (`take`: the same URL
and the same headers, or it is not that request), and the connections that are left over (`connection`).

Nothing depends on it: what fails here, or does not come in time, is asked again in the usual way, which
says what is wrong. No login is sent; a 401 is an answer like others. What changes something at a registry
(an upload that is begun) is undone if the program does not ask for it.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from asyncbuild.errors import AsyncbuildError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
UNDO_SECONDS: Final = 5.0
LATE_SECONDS: Final = 0.25
"""How long a connection that is not there yet is waited for: the usual way tries several at once."""
FAR_SECONDS: Final = 0.025
"""A registry that has answered nothing in so short a time is far away."""
MOST_BYTES: Final = 8 << 20
_RECEIVE: Final = 64 << 10
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d)[ \r]")

Headers = tuple[tuple[str, str], ...]


class Place(NamedTuple):
    """Where a connection leads: ``host`` without brackets. ``context`` makes that of TLS; None for http."""

    host: str
    port: int
    context: Callable[[], ssl.SSLContext] | None = None


class Ask(NamedTuple):
    """A request without a body: its absolute URL, the part of it that goes to the server, and its headers
    but Host.
    """

    url: str
    target: str
    host: str
    headers: Headers
    method: str = "GET"


class Reply(NamedTuple):
    """An answer, whole. Header names are as they came."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Early:
    """A request that was sent early, or will be: its reply is None where that came to nothing."""

    def __init__(self, ask: Ask, line: _Line) -> None:
        self.ask = ask
        self.line = line
        self._done = threading.Event()
        self._reply: Reply | None = None
        self.seconds = math.inf
        """How long the reply took."""

    def wait(self, seconds: float = ANSWER_SECONDS) -> Reply | None:
        """The reply. Blocks: for a short time if there is no connection yet, else for so many seconds."""
        if not self.line.connected.wait(LATE_SECONDS):
            return None
        self._done.wait(seconds)
        return self._reply

    def settle(self, reply: Reply | None, seconds: float = math.inf) -> None:
        """The reply has come, after so many seconds, or none will."""
        self._reply = reply
        self.seconds = seconds
        self._done.set()


Follow = Callable[[Ask, Reply], Ask | None]
"""What will be asked next, given a request and its reply; None: nothing."""


def nothing(_ask: Ask, _reply: Reply) -> None:
    """Nothing follows."""


class Sent(NamedTuple):
    """For a trace: what was done early, from when to when (`time.monotonic`)."""

    what: str
    began: float
    ended: float


class _Line:
    """A connection that is made, or asked over (``busy``), or free; without ``sock`` if that failed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.connected = threading.Event()
        self.sock: socket.socket | None = None
        self.busy = False


class HeadStart:
    """Connections and requests that were begun before anything else. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[Early] = []
        self._lines: list[_Line] = []
        self._closed = False
        self._near = threading.Event()
        self._undone: Follow = nothing
        self.log: list[Sent] = []

    def dial(self, place: Place) -> None:
        """Connect to ``place``: for a later `ask`, or for the program itself."""
        self._begin(_Line(place))

    def dial_more(self, place: Place, count: int) -> None:
        """Have ``count`` connections to ``place`` in all, if registries are far away: for a wave of
        requests that the program will send. Called when something was asked.
        """
        _in_thread(self._dial_more, place, count)

    def begin(self, place: Place, ask: Ask, undo: Follow) -> None:
        """Send ``ask``, which changes something; unless it is taken, `close` sends what ``undo`` says."""
        self._undone = undo
        self.ask(place, ask)

    def ask(self, place: Place, ask: Ask, follow: Follow = nothing) -> None:
        """Send ``ask``, and then what ``follow`` says, over a dialled connection or one more."""
        with self._lock:
            free = (item for item in self._lines if not item.busy and item.place[:2] == place[:2])
            known = next(free, None)
            line = known or _Line(place)
            early = self._promise(ask, line)
            if early is None:
                return
            line.busy = True
        if known is None:
            self._begin(line)
        _in_thread(self._converse, line, early, follow)

    def take(self, url: str, headers: Headers, method: str = "GET") -> Early | None:
        """The early request that is this one, once; ``headers`` in any order."""
        with self._lock:
            for early in self._asked:
                if (early.ask.url, early.ask.method) == (url, method) and _same(early.ask, headers):
                    self._asked.remove(early)
                    return early
        return None

    def coming(self, host: str, port: int) -> int:
        """How many connections are being made that `connection` will give."""
        with self._lock:
            lines = [line for line in self._lines if line.place[:2] == (host, port)]
            return sum(not line.busy and not line.connected.is_set() for line in lines)

    def connection(self, host: str, port: int) -> socket.socket | None:
        """A connection that was made early and is free, once: blocking, an `ssl.SSLSocket` for TLS."""
        with self._lock:
            for line in self._lines:
                if not line.busy and line.sock is not None and line.place[:2] == (host, port):
                    self._lines.remove(line)
                    return line.sock
        return None

    def close(self) -> None:
        """Undo and close what nobody took; threads that still run close theirs."""
        with self._lock:
            begun = [early for early in self._asked if early.ask.method != "GET"]
            self._asked = [early for early in self._asked if early not in begun]
        for early in begun:
            self._take_back(early)
        with self._lock:
            self._closed = True
            for line in [line for line in self._lines if not line.busy]:
                self._settle(line)

    def _take_back(self, early: Early) -> None:
        """Undo what an early request has changed."""
        reply = early.wait(UNDO_SECONDS)
        with contextlib.suppress(OSError, ValueError, AsyncbuildError):
            undo = None if reply is None else self._undone(early.ask, reply)
            if undo is not None:
                with contextlib.closing(_connected(early.line.place)) as sock:
                    sock.settimeout(UNDO_SECONDS)
                    sock.sendall(_request(undo))
                    _receive(sock)

    def _begin(self, line: _Line) -> None:
        with self._lock:
            self._lines.append(line)
        _in_thread(self._connect, line)

    def _dial_more(self, place: Place, count: int) -> None:
        if self._near.wait(FAR_SECONDS):
            return
        with self._lock:
            known = sum(line.place[:2] == place[:2] for line in self._lines)
            missing = 0 if self._closed else count - known
        for _ in range(missing):
            self.dial(place)

    def _promise(self, ask: Ask, line: _Line) -> Early | None:
        """A place for the answer to ``ask``, unless it has one. The lock is held."""
        if self._closed or any(early.ask == ask for early in self._asked):
            return None
        early = Early(ask, line)
        self._asked.append(early)
        return early

    def _connect(self, line: _Line) -> None:
        began = time.monotonic()
        sock = None
        with contextlib.suppress(OSError, AsyncbuildError):  # ssl's errors are among them
            sock = _connected(line.place)
            self._note(f"connect to {line.place.host}:{line.place.port}", began)
        with self._lock:
            line.sock = sock
            line.connected.set()
            self._settle(line)

    def _converse(self, line: _Line, early: Early | None, follow: Follow) -> None:
        line.connected.wait()
        try:
            while early is not None and line.sock is not None and not self._closed:
                early = self._exchange(line, line.sock, early, follow)
        except (OSError, ValueError, AsyncbuildError):
            if line.sock is not None:
                line.sock.close()
            line.sock = None
        finally:
            if early is not None:
                early.settle(None)
        with self._lock:
            line.busy = False
            self._settle(line)

    def _exchange(
        self, line: _Line, sock: socket.socket, early: Early, follow: Follow
    ) -> Early | None:
        """One request and its reply; what comes next is promised before the reply is known to others."""
        began = time.monotonic()
        try:
            sock.sendall(_request(early.ask))
            reply = _receive(sock)
            seconds = time.monotonic() - began
            if seconds < FAR_SECONDS:
                self._near.set()
            self._note(f"{early.ask.method} {early.ask.url}", began)
            after = follow(early.ask, reply)
        except BaseException:
            early.settle(None)
            raise
        with self._lock:
            following = None if after is None else self._promise(after, line)
        early.settle(reply, seconds)
        return following

    def _settle(self, line: _Line) -> None:
        """Forget a line that failed, and one that is of no use any more. The lock is held."""
        if line.busy or not line.connected.is_set() or (line.sock is not None and not self._closed):
            return
        self._lines.remove(line)
        if line.sock is not None:
            line.sock.close()

    def _note(self, what: str, began: float) -> None:
        self.log.append(Sent(what, began, time.monotonic()))


def _in_thread(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, name="head start", daemon=True).start()


def _connected(place: Place) -> socket.socket:
    sock = socket.create_connection((place.host, place.port), CONNECT_SECONDS)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if place.context is not None:
            context = place.context()
            sock.getpeername()  # of one that was reset, ssl would lose the descriptor
            sock = context.wrap_socket(sock, server_hostname=place.host)
        sock.settimeout(ANSWER_SECONDS)
    except BaseException:
        sock.close()
        raise
    return sock


def _same(ask: Ask, headers: Headers) -> bool:
    ours = {(name.lower(), value) for name, value in (("Host", ask.host), *ask.headers)}
    return ours == {(name.lower(), value) for name, value in headers}


def _request(ask: Ask) -> bytes:
    lines = [f"{ask.method} {ask.target} HTTP/1.1", f"Host: {ask.host}"]
    lines += [f"{name}: {value}" for name, value in ask.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _receive(sock: socket.socket) -> Reply:
    """A reply whose length is told (RFC 9112, 6.3), of at most `MOST_BYTES`; `ValueError` for another.

    Such a one leaves the connection of no use, and the request to the usual way.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
        if len(data) > _RECEIVE:
            raise ValueError("a head without end")
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    status = _STATUS.match(first)
    if status is None:
        raise ValueError("not an answer of HTTP/1.1")
    headers = tuple(_header(line) for line in lines)
    length = _length(headers)
    parts, count = [body], len(body)
    while count < length:
        parts.append(_more(sock))
        count += len(parts[-1])
    if count > length:
        raise ValueError("more than was announced")
    return Reply(int(status[1]), headers, b"".join(parts))


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(_RECEIVE)
    if not data:
        raise ValueError("the connection was closed")
    return data


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip():
        raise ValueError("not a header")
    return name, value.strip()


def _length(headers: tuple[tuple[bytes, bytes], ...]) -> int:
    known = {name.lower(): value for name, value in headers}
    told = known.get(b"content-length", b"")
    odd = b"transfer-encoding" in known or known.get(b"connection", b"").lower() == b"close"
    if odd or not told.isdigit() or int(told) > MOST_BYTES:
        raise ValueError("a body of unknown length, a large one, or the last one")
    return int(told)
