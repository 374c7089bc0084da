"""Caches in buckets: S3 and what speaks its protocol, Azure's blob storage, Google Cloud Storage.

The work is obstore's (the Rust ``object_store``), an extra: ``pip install asyncbuild[buckets]``. It is
imported when the first object is asked for, and its calls block in threads. It finds credentials itself, as
each cloud's tools do: in this process's environment, by the web identity of a pod, from the machine's
metadata service. Nothing of them is in a `BucketPlace`, and none comes out with a message.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

from asyncbuild.cache.objects import ObjectNames, ObjectsFailed
from asyncbuild.records import dataclass
from asyncbuild.registry.registries import Registries

T = TypeVar("T")

MOST_ENTRY = 16 << 20
"""Bytes of an entry or a listing; a larger object is neither."""
_PIECE = 8 << 20
_THREADS = 48
_RETRIES: dict[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_CLIENT: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(
        hours=2
    ),  # a layer takes as long as it takes: what stalls is the other limit's
}
_SECRETS = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")
_PUBLIC = re.compile(r"KEY_ID$|FILE$|URI$")


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """A cache in a bucket (Azure: a container); ``scheme`` is s3, az or gs.

    ``prefix`` is put before all names. ``endpoint`` is a server of one's own, or Azure's account;
    ``region`` and ``path_style`` are S3's (False: the bucket's name is the first label of the host's).
    """

    scheme: str
    bucket: str
    prefix: str = ""
    names: ObjectNames = ObjectNames()
    endpoint: str = ""
    region: str = ""
    path_style: bool = False

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    def open(self, registries: Registries) -> BucketObjects:  # noqa: ARG002 - obstore has its own wires
        """Its objects; obstore is not needed yet."""
        return BucketObjects(str(self), lambda: _connect(self))


class BucketObjects:
    """The objects in what ``connect`` makes (a store of obstore's); called ``name``."""

    def __init__(self, name: str, connect: Callable[[], Any]) -> None:
        self.name = name
        self._connect = connect
        self._connected: Any = None
        self._lock = threading.Lock()
        self._threads = trio.CapacityLimiter(_THREADS)

    async def get(self, name: str) -> bytes | None:
        """A small object, whole; None if there is none."""
        return await self._call(lambda: self._get(name))

    @asynccontextmanager
    async def read(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an object, as they come."""
        pieces = await self._call(lambda: iter(self._open(name)))
        yield _Pieces(lambda: self._call(lambda: bytes(next(pieces, b""))))

    async def put(self, name: str, content: bytes | Path) -> None:
        """Write an object; one that is large in parts, several at a time."""
        await self._call(lambda: self._put(name, content))

    async def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return await self._call(lambda: self._exists(name))

    async def _call(self, work: Callable[[], T]) -> T:
        """Do it in a thread, which is left behind when nobody waits for it any more."""
        return await trio.to_thread.run_sync(
            self._faults_told, work, abandon_on_cancel=True, limiter=self._threads
        )

    def _faults_told(self, work: Callable[[], T]) -> T:
        from obstore.exceptions import BaseError  # noqa: PLC0415 - an extra, and large

        try:
            return work()
        except (BaseError, OSError, ValueError) as error:
            raise ObjectsFailed(f"{self.name}: {_without_secrets(str(error))}") from None

    @property
    def _store(self) -> Any:
        with self._lock:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected

    def _get(self, name: str) -> bytes | None:
        try:
            answer = self._store.get(name)
        except FileNotFoundError:
            return None
        if answer.meta["size"] > MOST_ENTRY:
            raise ValueError(f"{name} has {answer.meta['size']} bytes, too many")
        return bytes(answer.bytes())

    def _open(self, name: str) -> Iterator[Any]:
        stream: Iterator[Any] = self._store.get(name).stream(min_chunk_size=_PIECE)
        return stream

    def _put(self, name: str, content: bytes | Path) -> None:
        self._store.put(name, content, chunk_size=_PIECE, max_concurrency=8)

    def _exists(self, name: str) -> bool:
        try:
            self._store.head(name)
        except FileNotFoundError:
            return False
        return True


class _Pieces:
    """Bytes, piece by piece, until there is an empty one; may be left half read."""

    def __init__(self, fetch: Callable[[], Any]) -> None:
        self._fetch = fetch

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        piece: bytes = await self._fetch()
        if not piece:
            raise StopAsyncIteration
        return piece


def _connect(place: BucketPlace) -> Any:
    from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415 - an extra, and large

    more: dict[str, Any] = {
        "prefix": place.prefix or None,
        "retry_config": _RETRIES,
        "client_options": _CLIENT | {"allow_http": _may_be_plain(place)},
    }
    match place.scheme:
        case "gs":
            return GCSStore(place.bucket, **more)
        case "az":
            where = urlsplit(place.endpoint)
            account = where.path.strip("/") or (where.hostname or "").split(".")[0]
            more["account_name"] = account
            return AzureStore(place.bucket, endpoint=place.endpoint.rstrip("/"), **more)
        case _:
            return S3Store(place.bucket, **_s3(place), **more)


def _s3(place: BucketPlace) -> dict[str, Any]:
    """What obstore calls these; with its own endpoint the bucket's place in URLs is its own choice."""
    found: dict[str, Any] = {"region": place.region} if place.region else {}
    if place.endpoint:
        where = urlsplit(place.endpoint)
        host = where.netloc if place.path_style else f"{place.bucket}.{where.netloc}"
        found["endpoint"] = where._replace(netloc=host).geturl().rstrip("/")
        found["virtual_hosted_style_request"] = not place.path_style
    return found


def _may_be_plain(place: BucketPlace) -> bool:
    """Where the user wrote http; Google's server is another only for those who run an emulator of it."""
    return place.scheme == "gs" or place.endpoint.startswith("http://")


def _without_secrets(text: str) -> str:
    """The first line of a message and the code of an answer in XML, without the queries of URLs
    (signatures) and what is secret in the environment.
    """
    code = re.search(r"<Code>([^<]{1,80})</Code>", text)
    first = (text.splitlines() or [""])[0].partition(": <")[0]
    line = re.sub(r"(?<=[^\s<])\?[^\s\"')]+", "?…", first)[:400] + (f": {code[1]}" if code else "")
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRETS.search(name) and not _PUBLIC.search(name):
            line = line.replace(value, "***")
    return line
