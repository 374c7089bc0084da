"""Following HTTP/1.1 messages in a byte stream that is only passed on (RFC 9112), without any I/O.

A `Scanner` is fed whatever arrives, cut anywhere, and says where heads, bodies and ends of messages
are. It understands Content-Length, chunked coding, bodies that end with the connection, and interim
responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

_HEAD_LIMIT = 1024 * 1024


class Framing(Enum):
    """How a message's body ends (RFC 9112 section 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Head:
    """The start line's three words and the header fields (names in lower case)."""

    words: tuple[str, str, str]
    fields: dict[str, str]
    raw: bytes

    @property
    def status(self) -> int:
        """The status code, of a response."""
        return int(self.words[1])


@dataclass(frozen=True, slots=True)
class Body:
    """Some bytes of a body, with the marks of its transfer coding."""

    raw: memoryview


@dataclass(frozen=True, slots=True)
class End:
    """The message is complete."""


Part = Head | Body | End


class Scanner:
    """Cuts one direction of a connection into the parts of its messages.

    ``framing_of`` says how the body of a head's message ends: `request_framing`, or for responses a
    function that knows which request is answered. A scanner that meets what is no HTTP passes the rest
    on as a body.
    """

    def __init__(self, framing_of: Callable[[Head], Framing]) -> None:
        self._framing_of = framing_of
        self._state: Callable[[memoryview], int] = self._in_head
        self._buffer = bytearray()
        self._left = 0
        self._parts: list[Part] = []

    def feed(self, data: bytes | bytearray | memoryview) -> list[Part]:
        """The parts that ``data`` brings, in order; their raw bytes joined are what was fed and is not
        held.
        """
        rest = memoryview(data)
        self._parts = []
        while rest:
            rest = rest[self._state(rest) :]
        return self._parts

    def close(self) -> list[Part]:
        """The connection ended: a body that ends with it is complete."""
        ended = self._state == self._until_close
        self._state = self._until_close
        return [End()] if ended else []

    def _in_head(self, data: memoryview) -> int:
        searched = max(0, len(self._buffer) - 3)
        before = len(self._buffer)
        self._buffer += data[:_HEAD_LIMIT]
        end = self._buffer.find(b"\r\n\r\n", searched)
        if end < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                self._pass_on()
            return min(len(data), _HEAD_LIMIT)
        raw = bytes(self._buffer[: end + 4])
        self._buffer.clear()
        self._start(_parse_head(raw), raw)
        return end + 4 - before

    def _start(self, head: Head | None, raw: bytes) -> None:
        if head is None:
            self._buffer += raw
            self._pass_on()
            return
        self._parts.append(head)
        framing = self._framing_of(head)
        if framing is Framing.LENGTH:
            self._left = int(head.fields["content-length"])
        if framing is Framing.NONE or (framing is Framing.LENGTH and not self._left):
            self._end()
        elif framing is Framing.LENGTH:
            self._state = self._in_length
        else:
            self._state = self._in_size if framing is Framing.CHUNKED else self._until_close

    def _pass_on(self) -> None:
        self._parts.append(Body(memoryview(bytes(self._buffer))))
        self._buffer.clear()
        self._state = self._until_close

    def _end(self) -> None:
        self._parts.append(End())
        self._state = self._in_head

    def _in_length(self, data: memoryview) -> int:
        count = min(self._left, len(data))
        self._parts.append(Body(data[:count]))
        self._left -= count
        if not self._left:
            self._end()
        return count

    def _until_close(self, data: memoryview) -> int:
        self._parts.append(Body(data))
        return len(data)

    def _line(self, data: memoryview) -> tuple[int, bytes | None]:
        """Bytes taken, and the line with its LF once it is whole; what was taken is a part of the
        body.
        """
        window = bytes(data[:4096])
        end = window.find(b"\n") + 1
        count = end or len(window)
        self._parts.append(Body(data[:count]))
        self._buffer += window[:count]
        if not end:
            return count, None
        line = bytes(self._buffer)
        self._buffer.clear()
        return count, line

    def _in_size(self, data: memoryview) -> int:
        count, line = self._line(data)
        if line is not None:
            self._start_chunk(line.split(b";")[0])
        return count

    def _start_chunk(self, digits: bytes) -> None:
        try:
            size = int(digits, 16)
        except ValueError:
            self._state = self._until_close
            return
        self._left = size + len(b"\r\n")
        self._state = self._in_chunk if size else self._in_trailer

    def _in_chunk(self, data: memoryview) -> int:
        count = min(self._left, len(data))
        self._parts.append(Body(data[:count]))
        self._left -= count
        if not self._left:
            self._state = self._in_size
        return count

    def _in_trailer(self, data: memoryview) -> int:
        count, line = self._line(data)
        if line is not None and not line.strip():
            self._end()
        return count


def _parse_head(raw: bytes) -> Head | None:
    lines = raw.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or "HTTP/" not in lines[0]:
        return None
    if words[0].startswith("HTTP/") and not words[1].isdigit():
        return None
    fields = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    return Head((words[0], words[1], words[2] if len(words) > 2 else ""), fields, raw)


def request_framing(head: Head) -> Framing:
    """How a request's body ends: only a length or chunked coding announces one."""
    if "chunked" in head.fields.get("transfer-encoding", "").lower():
        return Framing.CHUNKED
    return Framing.LENGTH if head.fields.get("content-length", "").isdigit() else Framing.NONE


def response_framing(head: Head, method: str) -> Framing:
    """How the body of a response to a ``method`` request ends."""
    if method == "HEAD" or head.status in {204, 304} or 100 <= head.status < 200:
        return Framing.CLOSE if head.status == 101 else Framing.NONE
    framing = request_framing(head)
    return Framing.CLOSE if framing is Framing.NONE else framing
