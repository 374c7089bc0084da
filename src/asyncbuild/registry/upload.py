"""Pushing a blob: one upload session (OCI distribution specification, "Pushing a blob").

Two ways to fill it: `UploadSession.put`, one PUT with the whole body and the digest; or
`UploadSession.stream`, one PATCH of bytes that are still being made, closed by `UploadSession.close` when
the digest is known. A session is for one task. When a request fails:

1. The session is asked what it has (GET on its location), and only the rest is sent. Registries that
   forget a session that broke (docker-registry does) are sent everything again in a new one.
2. A session that is gone although we did not end it may have been closed by a request whose answer was
   lost: then the blob is there.
3. Tries are counted anew whenever the registry has a MiB more than after the last failure.
4. A manner that the registry refuses (413, 411, 405, …) is changed, and remembered for its other blobs.
"""

from __future__ import annotations

import contextlib

import trio

from asyncbuild.errors import (
    Exchange,
    ImageNotFound,
    IntegrityError,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    RemoteProtocolError,
)
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.auth import Scope, Scopes
from asyncbuild.registry.bodies import Body, BytesBody, Part
from asyncbuild.registry.caller import Call, Caller, Failed
from asyncbuild.registry.download import PROGRESS_BYTES
from asyncbuild.registry.habits import UploadHabits
from asyncbuild.registry.protocol import (
    blob_path,
    parse_upload_range,
    resolve_location,
    uploads_path,
    with_digest,
)
from asyncbuild.registry.wire import Answer, NoAnswer

ABORT_SECONDS = 5.0
SMALL_PUT = 1 << 20
"""Bytes: a blob up to this size waits for no other one."""
_BINARY = ("Content-Type", "application/octet-stream")
_LOST = frozenset({404, 416})
"""With these a registry says that the session is not, or not any more, as we think."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """The blob is in the repository: nothing is to be sent."""

    digest: Digest


@dataclass(slots=True)
class _Delivery:
    """A blob on its way: the registry has the first ``offset`` of its ``total`` bytes (None: nobody knows
    yet). Without a digest the session stays open at its end.
    """

    body: Body
    digest: Digest | None = None
    offset: int = 0
    total: int | None = None
    failures: int = 0
    best: int = 0
    manner: UploadHabits = field(default_factory=UploadHabits)
    advanced: bool = False
    arrived: bool = False

    @property
    def complete(self) -> bool:
        """Whether the registry has all bytes."""
        total = self.body.size if self.total is None else self.total
        return total is not None and self.offset >= total

    def rest(self, most: int | None = None) -> Part:
        """What is still to be sent, or the next ``most`` bytes of it."""
        return Part(self.body, self.offset, most)

    def confirm(self, offset: int) -> None:
        """The registry told how much it has, after a failure; much more than before, and tries are counted
        anew.
        """
        self.offset = offset
        self.advanced = offset - self.best >= PROGRESS_BYTES
        if self.advanced:
            self.failures = 0
        self.best = max(self.best, offset)


class UploadSession:
    """A place in a registry that takes the bytes of one blob."""

    def __init__(self, caller: Caller, repository: str, location: str, commit: float) -> None:
        self.repository = repository
        self._caller = caller
        self._location = location
        self._commit = commit
        self._streamed: _Delivery | None = None
        self._open = True

    @property
    def location(self) -> str:
        """Where the next request goes."""
        return self._location

    async def put(self, body: bytes | Body, digest: Digest) -> None:
        """Send everything, in one PUT if the registry takes it so.

        Raises `IntegrityError` if the registry finds another digest; `StoreError` for a file that
        cannot be read.
        """
        payload = BytesBody(body) if isinstance(body, bytes) else body
        delivery = _Delivery(payload, digest, total=payload.size)
        if payload.size is not None and payload.size <= SMALL_PUT:
            await self._deliver(delivery)
            return
        async with self._caller.uploads:
            await self._deliver(delivery)

    async def stream(self, body: Body) -> int:
        """Send ``body`` while it is made, in one PATCH; returns how many bytes it had.

        One that can be read again is sent again from the byte that the registry has; of another one the
        bytes are gone, and a failure is an error. An exception of the body comes through as it is. To a
        registry that wants blobs whole nothing is sent before `close`.
        """
        delivery = self._streamed = _Delivery(body, total=body.size)
        await self._deliver(delivery)
        return delivery.offset

    async def close(self, digest: Digest) -> None:
        """Name what was streamed: from now on it is a blob of the repository.

        Raises `IntegrityError` if the registry finds another digest.
        """
        delivery = self._streamed or _Delivery(BytesBody(b""), total=0)
        if delivery.total is None:
            delivery.total = delivery.body.size
        delivery.digest = digest
        await self._deliver(delivery)

    async def abort(self) -> None:
        """Tell the registry that nothing more comes. Never raises, and takes at most a few seconds, also
        while the task is being cancelled; harmless after `close`.
        """
        if self._open:
            self._open = False
            await self._give_up_session()

    async def _give_up_session(self) -> None:
        expected = frozenset({200, 202, 204, 404, 405})
        with trio.move_on_after(ABORT_SECONDS, shield=True), contextlib.suppress(RegistryError):
            result = await self._caller.once(self._call("DELETE", self._location, expected))
            if not isinstance(result, Failed):
                await result.discard()

    # --- one blob, however often it takes ------------------------------------------------------------

    async def _deliver(self, delivery: _Delivery) -> None:
        while not delivery.arrived:
            failed = await self._attempt(delivery)
            if failed is None:
                return
            if not self._open:
                raise failed.error  # aborted meanwhile
            await self._recover(delivery, failed)

    async def _attempt(self, delivery: _Delivery) -> Failed | None:
        """Send what is left, and close if the digest is known; what failed, if anything did."""
        habits = self._caller.habits
        delivery.manner = replace(habits)
        if delivery.digest is None and not habits.streams:
            return None
        size = delivery.rest().size
        fits = size is not None and (habits.most is None or size <= habits.most)
        together = delivery.digest is not None and delivery.offset == 0 and habits.whole and fits
        while not (together or delivery.complete):
            failed = await self._send_part(delivery)
            if failed is not None:
                return failed
        if delivery.digest is None:
            return None
        body = delivery.rest() if together else None
        return await self._close(delivery.digest, body)

    async def _send_part(self, delivery: _Delivery) -> Failed | None:
        part = delivery.rest(self._caller.habits.most)
        call = self._call("PATCH", self._location, frozenset({201, 202, 204}), part)
        if part.size is not None and (delivery.offset or part.size != delivery.total):
            span = f"{delivery.offset}-{delivery.offset + part.size - 1}"
            call = replace(call, headers=(*call.headers, ("Content-Range", span)))
        result = await self._caller.once(call)
        if isinstance(result, Failed):
            return result
        self._follow(result)
        await result.discard()
        delivery.offset += part.taken
        most = self._caller.habits.most
        if delivery.total is None and (most is None or part.taken < most):
            delivery.total = delivery.offset
        return None

    async def _close(self, digest: Digest, body: Body | None) -> Failed | None:
        target = with_digest(self._location, digest)
        expected = frozenset({200, 201, 202, 204})
        result = await self._caller.once(self._call("PUT", target, expected, body))
        if isinstance(result, Failed):
            return result
        self._open = False
        await result.discard()
        check_digest(result, digest)
        return None

    async def _recover(self, delivery: _Delivery, failed: Failed) -> None:
        """Get ready for another attempt, or raise what failed."""
        if not (delivery.body.replayable or delivery.complete):
            raise failed.error
        exchange = failed.error.exchange
        status = exchange.status if exchange is not None else None
        damaged = isinstance(failed.error, IntegrityError)
        if exchange is not None and status is not None and not damaged:
            size = delivery.rest(self._caller.habits.most).size
            habits = self._caller.habits
            learnt = habits.learn(exchange.method, status, size)
            if learnt or habits.learnt_since(delivery.manner, status):
                await self._give_up_session()
                await self._begin_again(delivery)
                return
        spliced = damaged and delivery.best > 0
        delivery.failures += 1
        again = replace(failed, temporary=failed.temporary or status in _LOST or spliced)
        again = replace(again, advanced=delivery.advanced)
        delivery.advanced = False
        if not await self._caller.patience.pause(delivery.failures, again):
            raise failed.error
        if spliced:
            await self._give_up_session()
            await self._begin_again(delivery)
            return
        known = await self._ask_state()
        if known is not None:
            delivery.confirm(known)
        elif delivery.digest is not None and await self._has(delivery.digest):
            delivery.arrived, self._open = True, False
        else:
            await self._begin_again(delivery)
        if not (delivery.body.replayable or delivery.complete):
            raise failed.error

    async def _begin_again(self, delivery: _Delivery) -> None:
        fresh = await start_upload(self._caller, self.repository, commit=self._commit)
        assert isinstance(fresh, UploadSession)
        self._location = fresh.location
        delivery.offset = delivery.best = 0

    async def _ask_state(self) -> int | None:
        """How many bytes the session has; None if it is gone, or does not tell."""
        try:
            answer = await self._caller.open(
                self._call("GET", self._location, frozenset({200, 202, 204}))
            )
        except (NoAnswer, RegistryUnavailable, RateLimited):
            raise
        except RegistryError:
            return None
        self._follow(answer)
        await answer.discard()
        return parse_upload_range(answer.headers.get("range", ""))

    async def _has(self, digest: Digest) -> bool:
        """Whether the blob is in the repository: a request closed the session, and its answer was lost."""
        purpose = f"look for blob {digest.short} in {self.repository}"
        scopes = push_scopes(self.repository)
        path = blob_path(self.repository, digest)
        try:
            answer = await self._caller.open(Call("HEAD", path, purpose, scopes))
        except ImageNotFound:
            return False
        await answer.discard()
        return True

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
