"""One exchange with a registry double: what is asked, what is answered, what faults do to either."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace

from asyncbuild.testing.faults import (
    Action,
    Corrupt,
    Drop,
    DropAnswer,
    Garble,
    Hang,
    Lengthen,
    Refuse,
    Respond,
    Shorten,
    WithHeaders,
    WrongLength,
)


@dataclass(slots=True)
class LoggedRequest:
    """One request; ``ended`` is None while it is under way. Times are trio's, bytes are of bodies."""

    method: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]
    started: float
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    ended: float | None = None

    @property
    def authorization(self) -> str:
        """The Authorization header, "" if there was none."""
        return self.headers.get("authorization", "")

    def __str__(self) -> str:
        query = f"?{self.query}" if self.query else ""
        return f"{self.method} {self.path}{query} {self.status}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the double is asked it; header names in lower case."""

    method: str
    scheme: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and how it is delivered.

    After ``stop`` bytes of the body (-1: before the status line) the connection breaks, or hangs; or,
    with ``trickle``, one byte comes each so many seconds. ``declared`` is the Content-Length to send, if it
    is not the body's. ``garbage`` is sent instead of any HTTP; with ``refused`` there was no connection.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stop: int | None = None
    hangs: bool = False
    declared: int | None = None
    trickle: float | None = None
    garbage: bytes = b""
    refused: bool = False


class UploadDropped(Exception):
    """The connection is closed while the request's body is being read."""


def error_answer(status: int, code: str, message: str) -> Answered:
    """An error in the specification's JSON."""
    document = {"errors": [{"code": code, "message": message}]}
    return Answered(status, {"content-type": "application/json"}, json.dumps(document).encode())


def instead(action: Action | None) -> Answered | None:
    """What a fault answers without the double doing anything; None if the double is asked."""
    match action:
        case Respond():
            return Answered(action.status, dict(action.headers), action.body)
        case Drop(after=None):
            return Answered(500, stop=-1)
        case Hang(after=None):
            return Answered(500, stop=-1, hangs=True)
        case Garble():
            return Answered(500, stop=-1, garbage=action.data)
        case Refuse():
            return Answered(500, stop=-1, refused=True)
        case _:
            return None


def spoilt(answered: Answered, action: Action | None) -> Answered:
    """The double's answer as a fault leaves it."""
    body = answered.body
    match action:
        case DropAnswer():
            return replace(answered, stop=-1)
        case Hang(after=after, trickle=trickle):
            return replace(answered, stop=after, hangs=True, trickle=trickle)
        case Drop(after=after):
            return replace(answered, stop=after)
        case Shorten(length=length):
            return replace(answered, body=body[:length])
        case Lengthen(extra=extra):
            return replace(answered, body=body + extra)
        case Corrupt(offset=offset) if offset < len(body):
            flipped = body[:offset] + bytes([body[offset] ^ 0xFF]) + body[offset + 1 :]
            return replace(answered, body=flipped)
        case WrongLength(delta=delta):
            return replace(answered, declared=max(0, len(body) + delta))
        case WithHeaders(headers=changes):
            headers = {**answered.headers, **changes}
            kept = {name: value for name, value in headers.items() if value is not None}
            return replace(answered, headers=kept)
        case _:
            return answered


class CountedBody:
    """A request's body: counts what comes, and drops the connection where a fault says so. Not a
    generator, so it may be left half read.
    """

    def __init__(self, body: AsyncIterator[bytes], entry: LoggedRequest, drop: int | None) -> None:
        self._body = body
        self._entry = entry
        self._drop = drop

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._drop is not None and self._entry.bytes_in >= self._drop:
            raise UploadDropped
        chunk = await anext(self._body)
        if self._drop is not None:
            chunk = chunk[: self._drop - self._entry.bytes_in]
        self._entry.bytes_in += len(chunk)
        return chunk


async def read_whole(body: AsyncIterator[bytes]) -> bytes:
    """A request's body."""
    return b"".join([chunk async for chunk in body])
