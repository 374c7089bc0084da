"""Files behind URLs: what ADD fetches, and build contexts.

As BuildKit does it (source/http/source.go): any answer below 400 will do, redirects are followed, the
time is that of Last-Modified or else the epoch, credentials are the secrets HTTP_AUTH_HEADER_<host> and
HTTP_AUTH_TOKEN_<host>. Proxies are those of the environment, as for all programs. A file is streamed to
the store and becomes a blob there, verified if the Dockerfile says what it must be.
"""

from __future__ import annotations

import hashlib
import os
import random
import zlib
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import trio

from asyncbuild.build.gate import SourceGate
from asyncbuild.build.run_options import RunOptions, SshSource
from asyncbuild.dockerfile.remote import WebFile, redacted
from asyncbuild.errors import AsyncbuildError, FetchFailed, InputError, StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.layers.limits import LIMITS, LayerLimits
from asyncbuild.records import dataclass, field
from asyncbuild.registry.authorities import TrustSettings
from asyncbuild.registry.proxies import Proxies
from asyncbuild.registry.retry import TEMPORARY_STATUSES, RetryPolicy, retry_after
from asyncbuild.registry.tls import Trust
from asyncbuild.registry.transport import Network, PoolTransport, Timeouts
from asyncbuild.registry.wire import Answer, NoAnswer, Sent, Wire
from asyncbuild.report.events import (
    Direction,
    Reporter,
    Transfer,
    TransferFinished,
    TransferProgress,
    TransferStarted,
)
from asyncbuild.store.store import Store

MAX_REDIRECTS = 10
"""As Go's client."""
_OK = range(200, 400)
_REDIRECTS = (301, 302, 303, 307, 308)
_KNOWN = frozenset(map(int, HTTPStatus))

Secrets = Callable[[str], bytes | None]
"""A secret by its id; None if the build has none of this id."""


def secrets_of(options: RunOptions) -> Secrets:
    """The secrets of a build."""

    def find(name: str) -> bytes | None:
        found = options.secrets.get(name)
        return None if found is None else found.data

    return find


def no_secrets(_name: str) -> bytes | None:
    """A build without secrets."""
    return None


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that was fetched: a blob of the store. ``modified_ns`` is 0 if the server did not say."""

    path: Path
    digest: Digest
    size: int
    modified_ns: int = 0


@dataclass(frozen=True, slots=True)
class FetchTools:
    """What fetching needs of a build. ``environ`` is read for proxies and certificate authorities;
    ``ssh`` is what answers for repositories behind ssh, if anything does.
    """

    store: Store
    reporter: Reporter
    environ: Mapping[str, str] = field(default_factory=dict)
    secrets: Secrets = no_secrets
    ssh: SshSource | None = None
    limits: LayerLimits = LIMITS
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    chance: random.Random = field(default_factory=random.Random)
    gate: SourceGate = field(default_factory=SourceGate)


class WebFetcher:
    """Fetches files; connections are shared and kept until `aclose`."""

    def __init__(self, tools: FetchTools) -> None:
        self._tools = tools
        self._wire = Wire(_transport(tools.environ), Timeouts(), None)
        self._serial = 0

    async def aclose(self) -> None:
        """Close every connection."""
        await self._wire.aclose()

    async def fetch(self, file: WebFile, checksum: Digest | None = None) -> FetchedFile:
        """Fetch ``file``, trying again where that may help.

        `FetchFailed` if it cannot be had, or is not what ``checksum`` says; `InputError` if the server
        does not have it or does not give it to us; `StoreError` for the disk; `SourceDenied` before any
        request if the policy does not allow it.
        """
        file, checksum = self._tools.gate.file(file, checksum)
        failures = 0
        while True:
            try:
                fetched = await self._try(file)
            except _Temporary as problem:
                failures += 1
                chance = self._tools.chance.random()
                pause = self._tools.policy.pause(failures, chance, problem.wish)
                if pause is None:
                    raise problem.error from problem.__cause__
                await trio.sleep(pause)
                continue
            if checksum is not None and fetched.digest != checksum:
                raise FetchFailed(
                    f"{file.shown}: its content is {fetched.digest}, and --checksum says {checksum}"
                )
            return fetched

    async def _try(self, file: WebFile) -> FetchedFile:
        try:
            answer = await self._open(file)
            try:
                _check(file, answer)
                return await self._save(file, answer)
            finally:
                await answer.aclose()
        except NoAnswer as error:
            failed = FetchFailed(f"cannot fetch {file.shown}: {error.message}")
            if error.final:
                raise failed from error
            raise _Temporary(failed) from error

    async def _open(self, file: WebFile) -> Answer:
        """The answer that redirects lead to. Credentials go to the first host only."""
        url, headers = file.url, self._credentials(file.url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._wire.send(Sent("GET", url, (("Accept", "*/*"), *headers)))
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or not location:
                return answer
            await answer.discard()
            there = httpx.URL(url).join(location)
            if there.scheme not in ("http", "https"):
                raise FetchFailed(
                    f"cannot fetch {file.shown}: it redirects to {redacted(location)}"
                )
            if (there.scheme, there.netloc) != (httpx.URL(url).scheme, httpx.URL(url).netloc):
                headers = ()
            url = str(there)
        raise FetchFailed(f"cannot fetch {file.shown}: more than {MAX_REDIRECTS} redirects")

    def _credentials(self, url: str) -> tuple[tuple[str, str], ...]:
        host = urlsplit(url).hostname or ""
        found: tuple[tuple[str, str], ...] = ()
        for prefix, scheme in (("HTTP_AUTH_HEADER_", ""), ("HTTP_AUTH_TOKEN_", "Bearer ")):
            secret = self._tools.secrets(prefix + host)
            if secret is not None:
                found = (("Authorization", scheme + secret.decode("latin-1").strip()),)
        return found

    async def _save(self, file: WebFile, answer: Answer) -> FetchedFile:
        self._serial += 1
        host = urlsplit(answer.sent.url).netloc.rpartition("@")[2]
        transfer = Transfer(Direction.PULL, f"file {file.name}", host, serial=self._serial)
        emit = self._tools.reporter.emit
        started = trio.current_time()
        length = answer.headers.get("content-length", "")
        emit(TransferStarted(transfer, int(length) if length.isdecimal() else None))
        store = self._tools.store
        path = await trio.to_thread.run_sync(store.new_blob)
        sink = _Sink(path, zipped=_is_zipped(answer))
        try:
            while chunk := await answer.next_chunk():
                await trio.to_thread.run_sync(sink.write, chunk)
                emit(TransferProgress(transfer, sink.received))
            digest = sink.digest
            kept = await trio.to_thread.run_sync(store.commit_blob, path, digest, sink.size)
        except zlib.error as error:
            store.discard(path)
            raise _Temporary(FetchFailed(f"cannot fetch {file.shown}: {error}")) from error
        except BaseException:
            store.discard(path)
            raise
        finally:
            sink.close()
        emit(TransferFinished(transfer, sink.received, trio.current_time() - started))
        return FetchedFile(kept, digest, sink.size, _modified_ns(answer.headers))


def _transport(environ: Mapping[str, str]) -> PoolTransport:
    trust = Trust(TrustSettings.from_environment(environ))
    return PoolTransport(Network(trust, Proxies.from_environment(environ)))


class _Temporary(Exception):
    """A failure after which another try may succeed."""

    def __init__(self, error: AsyncbuildError, wish: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wish = wish


class _Sink:
    """A file that is written and hashed. Blocks.

    As Go's client does, gzip that was only put on for the way (``zipped``) is taken off.
    """

    def __init__(self, path: Path, *, zipped: bool) -> None:
        self._path = path
        self._inflater = zlib.decompressobj(31) if zipped else None
        self._hash = hashlib.sha256()
        self.received = 0
        self.size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise self._refused(error) from error

    @property
    def digest(self) -> Digest:
        """Of everything that was written."""
        return Digest("sha256", self._hash.hexdigest())

    def write(self, chunk: bytes) -> None:
        """Append what has come."""
        self.received += len(chunk)
        data = chunk if self._inflater is None else self._inflater.decompress(chunk)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise self._refused(error) from error
        self._hash.update(data)
        self.size += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(f"cannot write {self._path}: {error.strerror}")


def _is_zipped(answer: Answer) -> bool:
    return str(answer.headers.get("content-encoding", "")).strip().lower() == "gzip"


def _check(file: WebFile, answer: Answer) -> None:
    """Refuse an answer that is not the file."""
    if answer.status in _OK:
        return
    phrase = HTTPStatus(answer.status).phrase if answer.status in _KNOWN else ""
    url = answer.sent.url
    where = "" if url == file.url else f" (from {redacted(url)})"
    message = f"cannot fetch {file.shown}: {answer.status} {phrase}{where}"
    if answer.status in TEMPORARY_STATUSES:
        raise _Temporary(FetchFailed(message), retry_after(answer.headers))
    hint = None
    if answer.status in (401, 403):
        host = urlsplit(file.url).hostname
        hint = f"the secret with the id HTTP_AUTH_TOKEN_{host} would be sent as a bearer token"
    raise InputError(message, hint=hint)


def _modified_ns(headers: Mapping[str, str]) -> int:
    try:
        moment = parsedate_to_datetime(headers.get("last-modified", ""))
    except (ValueError, TypeError):
        return 0
    return max(0, int(moment.timestamp())) * 10**9
