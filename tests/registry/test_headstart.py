"""Requests that are sent before the program is there: by sockets that say exactly what came over them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from asyncbuild.registry.headstart import MOST_BYTES, Ask, HeadStart, Place, Reply

HEADERS = (("User-Agent", "tests"), ("Accept", "*/*"))


class Server:
    """Answers each request with the next of ``answers``; b"" closes the connection instead."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard: list[tuple[int, bytes]] = []
        """Each request, by the number of its connection."""
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                number = self.connections
                threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection:
            while request := connection.recv(1 << 16):
                self.heard.append((number, request))
                answer = self._answers.pop(0)
                if not answer:
                    return
                connection.sendall(answer)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


@contextlib.contextmanager
def serving(*answers: bytes) -> Iterator[tuple[Server, Place]]:
    """A server with these answers, and where it is."""
    server = Server(*answers)
    try:
        yield server, Place("127.0.0.1", server.port)
    finally:
        server.close()


def asked(place: Place, path: str) -> Ask:
    """A GET of ``path``, to a server that is called ``there``."""
    return Ask(f"http://there{path}", path, "there", HEADERS)


def answer(body: bytes, *more: bytes) -> bytes:
    """A plain answer with a body and more header lines."""
    lines = (b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *more)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def reply_of(start: HeadStart, url: str) -> Reply | None:
    """The reply to the GET of ``url``, asked for as the program does."""
    headers = (("accept", "*/*"), ("host", "there"), ("user-agent", "tests"))
    early = start.take(url, headers)
    assert early is not None, url
    return early.wait()


def test_what_follows_goes_over_the_same_connection() -> None:
    """A chain of requests, then the connection itself; each is had once."""
    with serving(answer(b"one", b"X-Name: value"), answer(b"two")) as (server, place):

        def follow(ask: Ask, reply: Reply) -> Ask | None:
            assert reply.body in (b"one", b"two")
            return asked(place, "/2") if ask.target == "/1" else None

        start = HeadStart()
        start.dial(place)
        start.ask(place, asked(place, "/1"), follow)
        first = reply_of(start, "http://there/1")
        assert first is not None
        assert (first.status, first.body) == (200, b"one")
        assert (b"X-Name", b"value") in first.headers
        second = reply_of(start, "http://there/2")
        assert second is not None
        assert second.body == b"two"
        assert start.take("http://there/1", (("Host", "there"), *HEADERS)) is None
        connection = wait_for_connection(start, place)
        connection.close()
        assert start.connection(place.host, place.port) is None
    first_line = b"GET /1 HTTP/1.1\r\nHost: there\r\nUser-Agent: tests\r\nAccept: */*\r\n\r\n"
    assert server.heard[0] == (1, first_line)
    assert [number for number, _ in server.heard] == [1, 1]
    assert server.connections == 1


def wait_for_connection(start: HeadStart, place: Place) -> socket.socket:
    """The connection is free a moment after its last reply is."""
    for _ in range(1000):
        found = start.connection(place.host, place.port)
        if found is not None:
            return found
        threading.Event().wait(0.005)
    raise AssertionError("no connection is left over")


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("http://there/1", (("Host", "there"), ("User-Agent", "tests"))),
        ("http://there/1", (("Host", "there"), *HEADERS, ("Authorization", "Basic eDp5"))),
        ("http://there/1", (("Host", "there"), ("User-Agent", "tests"), ("Accept", "text/html"))),
        ("http://there/1?ns=a", (("Host", "there"), *HEADERS)),
        ("https://there/1", (("Host", "there"), *HEADERS)),
    ],
)
def test_another_request_is_not_that_one(name: str, headers: tuple[tuple[str, str], ...]) -> None:
    """The URL and every header must be the same, a login above all."""
    with serving(answer(b"one")) as (_, place):
        start = HeadStart()
        start.ask(place, asked(place, "/1"))
        assert start.take(name, headers) is None
        found = reply_of(start, "http://there/1")
        assert found is not None
        start.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\none",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MOST_BYTES + 1),
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfour",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\none",
        b"HTTP/1.1 200 OK\r\n Content-Length : 3\r\n\r\none",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
)
def test_what_is_not_plain_is_left_to_the_usual_way(said: bytes) -> None:
    """No reply, no connection, no noise: who wants it asks again."""
    with serving(said) as (_, place):
        start = HeadStart()
        start.ask(place, asked(place, "/1"))
        early = start.take("http://there/1", (("Host", "there"), *HEADERS))
        assert early is not None
        assert early.wait() is None
        assert start.connection(place.host, place.port) is None
        start.close()


CREATED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nLocation: /upload\r\n\r\n"
BEGIN = (*HEADERS, ("Content-Length", "0"))


@pytest.mark.parametrize("taken", [True, False])
def test_what_was_begun_is_undone_unless_it_is_taken(taken: bool) -> None:  # noqa: FBT001 - a case
    """A POST is taken as a POST only; what nobody took is undone at the end, as its reply says."""
    with serving(CREATED, answer(b"")) as (server, place):
        start = HeadStart()
        begun = Ask("http://there/1", "/1", "there", BEGIN, "POST")

        def undo(ask: Ask, reply: Reply) -> Ask:
            location = dict(reply.headers)[b"Location"].decode()
            return ask._replace(target=location, method="DELETE")

        start.begin(place, begun, undo)
        assert start.take("http://there/1", (("Host", "there"), *BEGIN)) is None
        if taken:
            early = start.take("http://there/1", (("Host", "there"), *BEGIN), "POST")
            assert early is not None
            found = early.wait()
            assert found is not None
            assert found.status == 202
        start.close()
        settle()
    lines = [request.partition(b"\r\n")[0] for _, request in server.heard]
    wanted = [b"POST /1 HTTP/1.1", b"DELETE /upload HTTP/1.1"]
    assert lines == wanted[: 1 if taken else 2]


def test_a_connection_that_ends_in_the_middle() -> None:
    """What was announced does not come: the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place("127.0.0.1", listener.getsockname()[1])
        start = HeadStart()
        start.ask(place, asked(place, "/1"))
        early = start.take("http://there/1", (("Host", "there"), *HEADERS))
        assert early is not None
        connection, _ = listener.accept()
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
        connection.close()
        assert early.wait() is None
        assert start.connection(place.host, place.port) is None


def test_more_connections_to_a_far_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are there count; where an answer has come at once there are no more."""
    with serving(answer(b"one")) as (server, place):
        start = HeadStart()
        start.dial(place)
        start.dial_more(place, 5)
        settle()
        for _ in range(1000):  # the server's threads take them
            if server.connections < 5:
                threading.Event().wait(0.005)
        assert server.connections == 5
        monkeypatch.setattr("asyncbuild.registry.headstart.FAR_SECONDS", 60.0)
        start.ask(place, asked(place, "/1"))
        start.dial_more(place, 9)
        settle()
        start.close()
    assert server.connections == 5


def settle() -> None:
    """Wait for the threads of head starts."""
    for _ in range(2):  # the second time for those that the first ones have started
        for thread in threading.enumerate():
            if thread.name == "head start":
                thread.join(60)


def test_nobody_listens() -> None:
    """A refused connection is a reply of None, at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place("127.0.0.1", listener.getsockname()[1])
    start = HeadStart()
    start.ask(place, asked(place, "/1"))
    early = start.take("http://there/1", (("Host", "there"), *HEADERS))
    assert early is not None
    assert early.wait() is None


def test_close_closes_what_is_left() -> None:
    """A server sees the end of each connection, of one that comes late too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place("127.0.0.1", listener.getsockname()[1])
        start = HeadStart()
        start.dial(place)
        connection, _ = listener.accept()
        start.close()
        connection.settimeout(30)
        assert connection.recv(1) == b""
        connection.close()
        assert start.connection(place.host, place.port) is None


def test_other_answers_than_200_are_answers() -> None:
    """A 401 is the program's to answer: it has the logins."""
    challenge = b'WWW-Authenticate: Bearer realm="https://there/token"'
    said = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n" + challenge + b"\r\n\r\n{}"
    with serving(said) as (_, place):
        start = HeadStart()
        start.ask(place, asked(place, "/1"))
        found = reply_of(start, "http://there/1")
        assert found is not None
        assert found.status == 401
        assert (b"WWW-Authenticate", challenge.partition(b": ")[2]) in found.headers
        start.close()
