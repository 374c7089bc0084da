"""Pushing a blob: one upload session (OCI distribution specification, "Pushing a blob").

Two ways to fill it: `UploadSession.put`, one PUT with the whole body and the digest, which begins again
after a failure; or `UploadSession.stream`, one PATCH of bytes that are still being made, closed by
`UploadSession.close` when the digest is known. A session is for one task.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

from asyncbuild.errors import Exchange, IntegrityError, RegistryError, RemoteProtocolError
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.registry.auth import Scope, Scopes
from asyncbuild.registry.bodies import Body, BytesBody, ChunksBody
from asyncbuild.registry.caller import Call, Caller, Failed
from asyncbuild.registry.protocol import resolve_location, uploads_path, with_digest
from asyncbuild.registry.wire import Answer

ABORT_SECONDS = 5.0
_BINARY = ("Content-Type", "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Mounted:
    """The blob is in the repository: nothing is to be sent."""

    digest: Digest


class UploadSession:
    """A place in a registry that takes the bytes of one blob."""

    def __init__(self, caller: Caller, repository: str, location: str, commit: float) -> None:
        self.repository = repository
        self._caller = caller
        self._location = location
        self._commit = commit
        self._open = True

    @property
    def location(self) -> str:
        """Where the next request goes."""
        return self._location

    async def put(self, body: bytes | Body, digest: Digest) -> None:
        """Send everything in one PUT, with its digest; in a new session after a temporary failure.

        Raises `IntegrityError` if the registry finds another digest; `StoreError` for a file that
        cannot be read.
        """
        payload = BytesBody(body) if isinstance(body, bytes) else body
        failures = 0
        while True:
            result = await self._caller.once(self._closing_call(digest, payload))
            if isinstance(result, Answer):
                await self._closed(result, digest)
                return
            failures += 1
            again = payload.replayable and await self._caller.patience.pause(failures, result)
            if not again:
                raise result.error
            await self._begin_again()

    async def _begin_again(self) -> None:
        fresh = await start_upload(self._caller, self.repository, commit=self._commit)
        assert isinstance(fresh, UploadSession)
        self._location = fresh.location

    async def stream(self, chunks: AsyncIterator[bytes], size: int | None = None) -> int:
        """Send ``chunks`` while they are made, in one PATCH; returns how many bytes went.

        Chunks of about a MiB are best. ``size``, if it is known, becomes the Content-Length. It is not
        tried again: the bytes are gone. An exception of ``chunks`` comes through as it is.
        """
        body = ChunksBody(chunks, size)
        call = self._call("PATCH", self._location, frozenset({201, 202, 204}), body)
        answer = await self._caller.open(call)
        self._follow(answer)
        await answer.discard()
        return body.sent

    async def close(self, digest: Digest) -> None:
        """Name what was streamed: from now on it is a blob of the repository.

        Raises `IntegrityError` if the registry finds another digest.
        """
        await self._closed(await self._caller.open(self._closing_call(digest, None)), digest)

    async def abort(self) -> None:
        """Tell the registry that nothing more comes. Never raises, and takes at most a few seconds, also
        while the task is being cancelled; harmless after `close`.
        """
        if not self._open:
            return
        self._open = False
        expected = frozenset({200, 202, 204, 404, 405})
        with trio.move_on_after(ABORT_SECONDS, shield=True), contextlib.suppress(RegistryError):
            result = await self._caller.once(self._call("DELETE", self._location, expected))
            if not isinstance(result, Failed):
                await result.discard()

    def _call(
        self, method: str, target: str, expected: frozenset[int], body: Body | None = None
    ) -> Call:
        return Call(
            method,
            target,
            f"push a blob to {self.repository}",
            push_scopes(self.repository),
            expected=expected,
            headers=(_BINARY,) if body is not None else (),
            body=body,
            receive_timeout=self._commit if method == "PUT" else None,
        )

    def _closing_call(self, digest: Digest, body: Body | None) -> Call:
        target = with_digest(self._location, digest)
        return self._call("PUT", target, frozenset({200, 201, 202, 204}), body)

    async def _closed(self, answer: Answer, digest: Digest) -> None:
        self._open = False
        await answer.discard()
        check_digest(answer, digest)

    def _follow(self, answer: Answer) -> None:
        location = answer.headers.get("location")
        if location:
            self._location = resolve_location(answer.sent.url, location)


def push_scopes(repository: str) -> Scopes:
    """What a push needs."""
    return frozenset({Scope.of(repository, "push")})


def check_digest(answer: Answer, digest: Digest) -> None:
    """Compare Docker-Content-Digest, if the registry sent a readable one of the same algorithm."""
    try:
        found = Digest.parse(answer.headers.get("docker-content-digest", ""))
    except InvalidDigest:
        return
    if found.algorithm == digest.algorithm and found != digest:
        raise IntegrityError(
            f"the registry has {found} where {digest} was meant", exchange=answer.exchange
        )


async def start_upload(
    caller: Caller,
    repository: str,
    *,
    mount: Digest | None = None,
    source: str | None = None,
    commit: float,
) -> Mounted | UploadSession:
    """POST: begin a session, or mount ``mount`` from the repository ``source``.

    A registry that refuses the mount (no right to read the source) is asked for a plain session.
    """
    scopes = push_scopes(repository)
    if mount is not None and source is not None and source != repository:
        scopes |= {Scope.of(source, "pull")}
    expected = frozenset({202}) if mount is None else frozenset({201, 202})
    call = Call(
        "POST",
        uploads_path(repository, mount, source),
        f"push a blob to {repository}",
        scopes,
        expected=expected,
    )
    try:
        answer = await caller.open(call)
    except RegistryError as error:
        if mount is None or not _mount_refused(error.exchange):
            raise
        return await start_upload(caller, repository, commit=commit)
    await answer.discard()
    if answer.status == 201:
        assert mount is not None
        return Mounted(mount)
    location = answer.headers.get("location")
    if not location:
        raise RemoteProtocolError("an upload session without a location", exchange=answer.exchange)
    return UploadSession(caller, repository, resolve_location(answer.sent.url, location), commit)


def _mount_refused(exchange: Exchange | None) -> bool:
    """Statuses with which registries in the field refuse only the mount, not the push."""
    return exchange is not None and exchange.status in (400, 401, 403, 404, 405)
