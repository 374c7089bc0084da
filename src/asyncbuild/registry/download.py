"""Reading a blob: streamed, its size checked, taken up again where the connection broke.

A connection that breaks is followed by a request for the rest (Range). The tries are counted anew
whenever a MiB has arrived since the last one, so a bad link is endured and a dead one is not. The digest
is not checked here: whoever unpacks the bytes hashes them anyway.
"""

from __future__ import annotations

import contextlib

from asyncbuild.errors import IntegrityError, RegistryError, RemoteProtocolError
from asyncbuild.image.manifest import Descriptor
from asyncbuild.records import dataclass
from asyncbuild.registry.auth import Scope
from asyncbuild.registry.caller import Call, Caller, Failed
from asyncbuild.registry.encoding import BlobInflater, Damaged, is_encoded
from asyncbuild.registry.protocol import blob_path, parse_content_range
from asyncbuild.registry.wire import Answer, NoAnswer

PROGRESS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BlobPart:
    """A blob of a repository, from byte ``start`` to before byte ``end``."""

    repository: str
    descriptor: Descriptor
    start: int
    end: int

    @property
    def purpose(self) -> str:
        """For errors: what is tried."""
        return f"pull blob {self.descriptor.digest.short} of {self.repository}"


class BlobReader:
    """An async iterator over the bytes of a `BlobPart`, exactly as many as it names.

    Raises `IntegrityError` for a blob of another size, `RegistryUnavailable` when it breaks off too
    often, and what `Caller.open` raises.
    """

    def __init__(self, caller: Caller, part: BlobPart) -> None:
        self._caller = caller
        self._part = part
        self._position = part.start
        self._skip = 0
        self._failures = 0
        self._failed_at = -PROGRESS_BYTES
        self._answer: Answer | None = None
        self._inflater: BlobInflater | None = None

    @property
    def ranged(self) -> bool:
        """Whether the last answer was for the range alone: the registry knows ranges."""
        return self._answer is not None and self._answer.status == 206

    async def open(self) -> None:
        """Ask for the bytes from the current position on."""
        part = self._part
        partial = self._position > 0 or part.end < part.descriptor.size
        if partial and self._position >= part.end:
            return
        answer = await self._caller.open(self._call(partial=partial))
        try:
            self._inflater = None
            self._skip = self._check(answer)
            if partial and answer.status == 200:
                self._caller.reading.ranges = False
        except BaseException:
            await answer.aclose()
            raise
        self._answer = answer

    def _call(self, *, partial: bool) -> Call:
        part = self._part
        span = (("Range", f"bytes={self._position}-{part.end - 1}"),) if partial else ()
        return Call(
            "GET",
            blob_path(part.repository, part.descriptor.digest),
            part.purpose,
            frozenset({Scope.of(part.repository, "pull")}),
            expected=frozenset({200, 206, 416} if partial else {200}),
            headers=(("Accept", "*/*"), *span),
        )

    def _check(self, answer: Answer) -> int:
        """How many bytes of the answer to pass over: a server may ignore Range and begin at 0."""
        size = self._part.descriptor.size
        if answer.status == 416:
            raise self._wrong_size(answer, "less")
        if answer.status == 200:
            length = answer.headers.get("content-length", "")
            same = not length.isdigit() or int(length) == size
            if is_encoded(answer.headers) and (not same or not length):
                self._inflater = BlobInflater(self._part.descriptor)
            elif not same:
                raise self._wrong_size(answer, length)
            return self._position
        span = parse_content_range(answer.headers.get("content-range", ""))
        if span is None or span.first != self._position:
            raise RemoteProtocolError(
                f"{self._part.purpose}: another range than asked for", exchange=answer.exchange
            )
        if span.total is not None and span.total != size:
            raise self._wrong_size(answer, str(span.total))
        return 0

    def _wrong_size(self, answer: Answer, found: str) -> IntegrityError:
        part = self._part
        return IntegrityError(
            f"{part.purpose}: {found} bytes where its manifest says {part.descriptor.size}",
            exchange=answer.exchange,
        )

    def __aiter__(self) -> BlobReader:
        return self

    async def __anext__(self) -> bytes:
        while self._position < self._part.end:
            try:
                chunk = await self._next_of_answer()
            except NoAnswer as error:
                await self._resume(error)
                continue
            if chunk:
                self._position += len(chunk)
                return chunk
        await self._finish()
        raise StopAsyncIteration

    async def _next_of_answer(self) -> bytes:
        """The next bytes that are wanted; b"" if those that came are passed over."""
        answer = self._answer
        assert answer is not None
        chunk = await answer.next_chunk()
        if not chunk:
            raise NoAnswer(f"{self._part.purpose}: it ends early", exchange=answer.exchange)
        chunk = self._plain(answer, chunk)
        if self._skip:
            passed = min(self._skip, len(chunk))
            self._skip -= passed
            chunk = chunk[passed:]
        left = self._part.end - self._position
        if len(chunk) > left:
            if self._part.end == self._part.descriptor.size:
                raise self._wrong_size(answer, "more")
            return chunk[:left]
        return chunk

    def _plain(self, answer: Answer, chunk: bytes) -> bytes:
        """What came, without the compression that the server put around it."""
        if self._inflater is None:
            return chunk
        try:
            return self._inflater.feed(chunk)
        except Damaged as error:
            raise IntegrityError(
                f"{self._part.purpose}: {error}", exchange=answer.exchange
            ) from None

    async def _resume(self, error: RegistryError) -> None:
        await self.aclose()
        advanced = self._position - self._failed_at >= PROGRESS_BYTES
        if advanced:
            self._failures = 0
        self._failures += 1
        self._failed_at = self._position
        failed = Failed(error, temporary=True, advanced=advanced)
        if not await self._caller.patience.pause(self._failures, failed):
            raise error
        await self.open()

    async def _finish(self) -> None:
        """All bytes are there: there must be no more, and the connection is free again."""
        answer, part = self._answer, self._part
        if answer is None:
            return
        extra = b""
        if part.end == part.descriptor.size or answer.status == 206:
            with contextlib.suppress(NoAnswer):
                extra = self._plain(answer, await answer.next_chunk())
        await self.aclose()
        if extra:
            raise self._wrong_size(answer, "more")

    async def aclose(self) -> None:
        """Free the connection."""
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.aclose()
