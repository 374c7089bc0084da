"""Following HTTP/1.1 messages: every message whole, byte by byte, and cut anywhere."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.testing.httpscan import (
    Body,
    End,
    Framing,
    Head,
    Part,
    Scanner,
    request_framing,
    response_framing,
)

REQUESTS = (
    b"GET /v2/a/manifests/1 HTTP/1.1\r\nHost: r\r\n\r\n"
    b"PUT /u/1?digest=x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    b"PATCH /u/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\n"
    b"PUT /empty HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
    b"HEAD /v2/ HTTP/1.1\r\n\r\n"
)


def _messages(parts: list[Part]) -> list[tuple[str, int]]:
    """Start line's first two words, and the body's length with the marks of its coding."""
    found: list[tuple[str, int]] = []
    for part in parts:
        if isinstance(part, Head):
            found.append((" ".join(part.words[:2]), 0))
        elif isinstance(part, Body):
            found[-1] = (found[-1][0], found[-1][1] + len(part.raw))
    return found


EXPECTED = [
    ("GET /v2/a/manifests/1", 0),
    ("PUT /u/1?digest=x", 5),
    ("PATCH /u/1", 8 + 26 + 3 + 6 + 2),
    ("PUT /empty", 0),
    ("HEAD /v2/", 0),
]


def test_messages_of_one_read() -> None:
    """Five requests that arrive at once are told apart, with their bodies' sizes."""
    parts = Scanner(request_framing).feed(REQUESTS)
    assert _messages(parts) == EXPECTED
    assert sum(isinstance(part, End) for part in parts) == 5


@given(cuts=st.lists(st.integers(0, len(REQUESTS)), max_size=40))
def test_cutting_is_irrelevant(cuts: list[int]) -> None:
    """However the stream is cut, the messages are the same and no byte is lost or changed."""
    scanner = Scanner(request_framing)
    bounds = [0, *sorted(cuts), len(REQUESTS)]
    parts: list[Part] = []
    for start, end in itertools.pairwise(bounds):
        parts += scanner.feed(REQUESTS[start:end])
    assert _messages(parts) == EXPECTED
    assert b"".join(bytes(part.raw) for part in parts if not isinstance(part, End)) == REQUESTS


def test_byte_by_byte() -> None:
    """One byte at a time gives the same messages."""
    scanner = Scanner(request_framing)
    parts = [part for byte in REQUESTS for part in scanner.feed(bytes([byte]))]
    assert _messages(parts) == EXPECTED


@pytest.mark.parametrize(
    ("head", "method", "framing"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "GET", Framing.LENGTH),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", Framing.NONE),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "DELETE", Framing.NONE),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "GET", Framing.NONE),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "PUT", Framing.NONE),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "GET", Framing.CLOSE),
        (b"HTTP/1.1 200\r\n\r\n", "GET", Framing.CLOSE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", "GET", Framing.CHUNKED),
    ],
)
def test_framing_of_responses(head: bytes, method: str, framing: Framing) -> None:
    """A response's body ends as RFC 9112 section 6.3 says."""
    seen: list[Framing] = []

    def framing_of(part: Head) -> Framing:
        seen.append(response_framing(part, method))
        return seen[-1]

    Scanner(framing_of).feed(head)
    assert seen == [framing]


def test_body_that_ends_with_the_connection() -> None:
    """Closing completes a response without length."""
    scanner = Scanner(lambda head: response_framing(head, "GET"))
    assert not any(isinstance(part, End) for part in scanner.feed(b"HTTP/1.0 200 OK\r\n\r\nabc"))
    assert scanner.close() == [End()]


@pytest.mark.parametrize("foreign", [b"\x16\x03\x01 TLS\r\n\r\nmore", b"nonsense\r\n\r\n"])
def test_what_is_not_http_is_passed_on(foreign: bytes) -> None:
    """Bytes that are no HTTP come out as a body, all of them."""
    parts = Scanner(request_framing).feed(foreign)
    assert b"".join(bytes(part.raw) for part in parts if isinstance(part, Body)) == foreign


def test_broken_chunk_size_is_passed_on() -> None:
    """A chunk whose size cannot be read does not stop the stream."""
    parts = Scanner(request_framing).feed(
        b"P /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nrest"
    )
    assert sum(len(part.raw) for part in parts if isinstance(part, Body)) == 8
