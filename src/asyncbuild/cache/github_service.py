"""GitHub's cache service, version 2: entries are announced and asked for in JSON (Twirp), and their bytes
go to and come from URLs that it signs, which are those of a storage account of Azure.

::

    POST …CacheService/CreateCacheEntry            key, version: a URL to upload to, unless somebody has it
    PUT  <that URL>                                "Put Blob", or "Put Block" and "Put Block List"
    POST …CacheService/FinalizeCacheEntryUpload    key, version, size_bytes: now it can be found
    POST …CacheService/GetCacheEntryDownloadURL    key, restore_keys (beginnings), version: a URL to read

1. The token goes to the service alone, never to a URL that it signed.
2. What fails is tried at most `TRIES` times and for at most `PATIENCE` seconds (a layer: as long as it may
   take). Then the service is left alone: for writing if writing failed, for everything if reading did.
   "Too many requests" (429) is not tried again at all.
3. A missing entry is no failure, and neither is one that somebody else has made, or is making.

Sources: the protocol as ``actions/toolkit`` (packages/cache) speaks it; Azure's Blob service, REST API.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from asyncbuild.errors import (
    Exchange,
    NotAuthorized,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    RemoteProtocolError,
)
from asyncbuild.records import dataclass, field
from asyncbuild.registry.bodies import Body, BytesBody, Part
from asyncbuild.registry.caller import Failed, Patience
from asyncbuild.registry.protocol import printable, redact, resolve_location
from asyncbuild.registry.reach import check_place
from asyncbuild.registry.retry import TEMPORARY_STATUSES, retry_after
from asyncbuild.registry.wire import ERROR_LIMIT, Answer, NoAnswer, Sent, Wire

ROOT = "/twirp/github.actions.results.api.v1.CacheService/"
VERSION = hashlib.sha256(b"asyncbuild cache 1").hexdigest()
"""What the service compares besides names: for ``actions/cache`` it is a digest of paths."""
TRIES = 3
ANSWER_SECONDS = 10.0
PATIENCE = 15.0
BLOCK = 32 << 20
"""Bytes of a block; what is not larger than two of them is sent whole."""
STREAMS = 4
STORAGE_VERSION = "2021-08-06"
ENTRY_LIMIT = 16 << 20
_LIMIT = 1 << 20
READING, WRITING = "reading", "writing"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that was found: its whole name, and where it can be read for some minutes."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Account:
    """Where the service is, who we are to it, and how many seconds a layer may take to come or go."""

    url: str
    token: str = field(repr=False)
    seconds: float


class GithubService:
    """Speaks to the service; all of its errors are `RegistryError`s."""

    def __init__(self, account: Account, wire: Wire, patience: Patience) -> None:
        self._account = account
        self._base = account.url.rstrip("/")
        self._wire = wire
        self._patience = patience
        self._off: dict[str, RegistryError] = {}
        self._questions = trio.CapacityLimiter(16)
        self._transfers = trio.CapacityLimiter(STREAMS)

    async def find(self, beginning: str) -> Entry | None:
        """The newest entry whose name begins like this."""
        found = await self._ask(
            READING, "GetCacheEntryDownloadURL", key=beginning, restore_keys=[beginning]
        )
        url, whole = _text(found, "signed_download_url"), _text(found, "matched_key")
        if not url or not whole.startswith(beginning):
            return None
        return Entry(whole, self._signed(READING, url))

    async def read(self, entry: Entry) -> bytes | None:
        """The bytes of a small entry; None if it is gone."""

        async def once() -> bytes | Failed | None:
            answer = await self._send(Sent("GET", entry.url, receive_timeout=ANSWER_SECONDS))
            if isinstance(answer, Failed):
                return answer
            if answer.status in (404, 410):
                await answer.discard()
                return None
            if answer.status != 200:
                return await self._failed(answer)
            return await _whole(answer, ENTRY_LIMIT)

        async with self._questions:
            return await self._persist(READING, once, PATIENCE)

    @asynccontextmanager
    async def reading(self, entry: Entry) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a large entry, as they come."""
        seconds = self._account.seconds
        async with self._transfers:
            with trio.move_on_after(seconds) as scope:
                answer = await self._persist(READING, lambda: self._open(entry), PATIENCE)
                try:
                    yield _Chunks(answer)
                except NoAnswer as broken:
                    self._leave_alone(READING, broken)
                    raise
                finally:
                    await answer.aclose()
            if scope.cancelled_caught:
                late = NoAnswer(f"a layer took longer than {seconds:.0f} s")
                self._leave_alone(READING, late)
                raise late

    async def create(self, name: str, body: Body) -> bool:
        """Make an entry; False if somebody else has made it, or is about to."""
        made = await self._ask(WRITING, "CreateCacheEntry", key=name)
        url, words = _text(made, "signed_upload_url"), _text(made, "message")
        if not url:
            if words and "exist" not in words:
                refused = NotAuthorized(f"no entry can be made: {self._shown(words)}")
                self._leave_alone(WRITING, refused)
                raise refused
            return False
        assert body.size is not None
        async with self._transfers:
            await self._upload(self._signed(WRITING, url), body, body.size)
        done = await self._ask(
            WRITING, "FinalizeCacheEntryUpload", key=name, size_bytes=str(body.size)
        )
        return bool(done.get("ok"))

    # Blobs

    async def _open(self, entry: Entry) -> Answer | Failed:
        answer = await self._send(Sent("GET", entry.url, receive_timeout=ANSWER_SECONDS))
        if isinstance(answer, Failed) or answer.status == 200:
            return answer
        return await self._failed(answer)

    async def _upload(self, url: str, body: Body, size: int) -> None:
        version = ("x-ms-version", STORAGE_VERSION)
        plain = ("Content-Type", "application/octet-stream")

        async def put(more: str, sent: Body, *headers: tuple[str, str]) -> None:
            request = Sent("PUT", f"{url}{more}", (version, *headers), sent)
            await self._persist(WRITING, lambda: self._put(request), self._account.seconds)

        if size <= 2 * BLOCK:
            await put("", body, plain, ("x-ms-blob-type", "BlockBlob"))
            return
        starts = range(0, size, BLOCK)
        names = [base64.b64encode(b"%08d" % number).decode() for number in range(len(starts))]
        joint = "&" if "?" in url else "?"
        left = list(zip(names, starts, strict=True))
        failures: list[RegistryError] = []

        async def stream() -> None:
            while left and not failures:
                name, start = left.pop(0)
                more = f"{joint}comp=block&blockid={name.replace('=', '%3D')}"
                try:
                    await put(more, Part(body, start, BLOCK), plain)
                except RegistryError as error:
                    failures.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(STREAMS):
                nursery.start_soon(stream)
        if failures:
            raise failures[0]
        listed = "".join(f"<Latest>{name}</Latest>" for name in names)
        document = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'
        await put(f"{joint}comp=blocklist", BytesBody(document.encode()))

    async def _put(self, sent: Sent) -> bool | Failed:
        answer = await self._send(sent)
        if isinstance(answer, Failed):
            return answer
        if answer.status not in (200, 201):
            return await self._failed(answer)
        await answer.discard()
        return True

    def _signed(self, way: str, url: str) -> str:
        try:
            found = resolve_location(f"{self._base}/", url)
            check_place(self._base, found)
        except RemoteProtocolError as error:
            self._leave_alone(way, error)
            raise
        return found

    # The service

    async def _ask(self, way: str, method: str, **fields: Any) -> dict[str, Any]:
        """The service's answer, {} if it says that there is none or that there is one already."""
        url = f"{self._base}{ROOT}{method}"
        headers = (
            ("Authorization", f"Bearer {self._account.token}"),
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
        )
        body = BytesBody(json.dumps({**fields, "version": VERSION}).encode())
        sent = Sent("POST", url, headers, body, ANSWER_SECONDS)

        async def once() -> dict[str, Any] | Failed:
            answer = await self._send(sent)
            if isinstance(answer, Failed):
                return answer
            if answer.status != 200:
                return await self._refused(answer)
            raw = await _whole(answer, _LIMIT)
            found = raw if isinstance(raw, Failed) else _object(raw)
            if found is None:
                error = RemoteProtocolError("no JSON object", exchange=answer.exchange)
                return Failed(error, temporary=True)
            return found

        async with self._questions:
            return await self._persist(way, once, PATIENCE)

    async def _refused(self, answer: Answer) -> dict[str, Any] | Failed:
        failed = await self._failed(answer)
        exchange = failed.error.exchange
        code = exchange.text.partition(":")[0] if exchange is not None else ""
        return {} if code in ("not_found", "already_exists") else failed

    async def _send(self, sent: Sent) -> Answer | Failed:
        try:
            return await self._wire.send(sent)
        except NoAnswer as error:
            return Failed(error, not error.final)

    async def _failed(self, answer: Answer) -> Failed:
        wish = retry_after(answer.headers)
        body = await _whole(answer, ERROR_LIMIT)
        found = None if isinstance(body, Failed) else _object(body)
        words = "" if found is None else f"{_text(found, 'code')}: {_text(found, 'msg')}"
        exchange = Exchange(
            answer.sent.method, redact(answer.sent.url), answer.status, self._shown(words)
        )
        temporary = answer.status in TEMPORARY_STATUSES and answer.status != 429
        return Failed(_error(exchange, wish), temporary)

    def _shown(self, words: str) -> str:
        """The service's words for people: without the token, if it should stand in them."""
        return printable(words.replace(self._account.token, "…").strip(": "), 300)

    async def _persist(
        self, way: str, once: Callable[[], Awaitable[T | Failed]], seconds: float
    ) -> T:
        if way in self._off:
            raise self._off[way]
        try:
            with trio.fail_after(seconds):
                return await self._patience.persist(once)
        except trio.TooSlowError:
            late = NoAnswer(f"no answer within {seconds:.0f} s")
            self._leave_alone(way, late)
            raise late from None
        except RegistryError as error:
            self._leave_alone(way, error)
            raise

    def _leave_alone(self, way: str, error: RegistryError) -> None:
        for item in (READING, WRITING) if way == READING else (WRITING,):
            self._off.setdefault(item, error)


class _Chunks:
    """The bytes of an answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._answer.next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _error(exchange: Exchange, wish: float | None) -> RegistryError:
    status = exchange.status or 0
    if status == 429:
        later = "" if wish is None else f", in {wish:.0f} s"
        return RateLimited(
            f"too many requests: it asks to come back later{later}", exchange=exchange
        )
    if status in (401, 403):
        return NotAuthorized("it does not take the token, or its own URL", exchange=exchange)
    if status in TEMPORARY_STATUSES:
        return RegistryUnavailable("it fails", exchange=exchange)
    return RegistryError("it refuses", exchange=exchange)


async def _whole(answer: Answer, limit: int) -> bytes | Failed:
    try:
        return await answer.read(limit)
    except NoAnswer as error:
        return Failed(error, not error.final)
    except RemoteProtocolError as error:
        return Failed(error, temporary=False)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(document: dict[str, Any], name: str) -> str:
    """A text of the service's answer, whose names some servers write like ``signedUploadUrl``."""
    first, *rest = name.split("_")
    value = document.get(name, document.get(first + "".join(part.title() for part in rest)))
    return value if isinstance(value, str) else ""
