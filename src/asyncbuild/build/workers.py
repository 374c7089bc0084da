"""Workers: child processes that pack and unpack layers, fed and heard from trio.

A pool starts children when they are needed, keeps them, and runs one job in each at a time. Whoever is
cancelled while a job runs leaves no child behind that still writes. A child that is killed from outside
is an error that says so, and the next job gets a new one.
"""

from __future__ import annotations

import array
import fcntl
import importlib.util
import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import ExitStack, aclosing, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Final, Self, TypeVar

import trio

from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import DiffId
from asyncbuild.image.manifest import Descriptor
from asyncbuild.layers import worker
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.compression import Compression
from asyncbuild.layers.extract import ExtractJob
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.limits import LIMITS, LayerLimits
from asyncbuild.layers.pack import PackedLayer, pack_to_file
from asyncbuild.layers.trim import Trim
from asyncbuild.layers.unpack import Unpacked, UnpackJob
from asyncbuild.rootfs.interpreter import python

R = TypeVar("R", bound=worker.Result)

PIPE_SIZE: Final = 1 << 20
SMALL_ENTRIES: Final = 100
SMALL_BYTES: Final = 1 << 20
"""A change set up to both sizes is packed in a thread of the build itself."""
_CLOSING_SECONDS: Final = 5
_MAX_TRACE: Final = 4000


def _ignore(_size: int) -> None:
    """Progress that no one asked for."""


class WorkerPool:
    """At most ``size`` children at work at once; an async context manager that ends them all.

    ``limits`` hold for each layer and archive that is unpacked.
    """

    def __init__(self, size: int, limits: LayerLimits = LIMITS) -> None:
        self._limits = limits
        self._free = trio.CapacityLimiter(size)
        self._idle: list[_Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        idle, self._idle = self._idle, []
        for child in idle:
            child.end()
        for child in idle:
            await child.kill()

    async def unpack(
        self,
        descriptor: Descriptor,
        diff_id: DiffId | None,
        destination: Path,
        chunks: AsyncIterable[bytes] | int,
        *,
        tee: Path | None = None,
    ) -> Unpacked:
        """Unpack the blob that ``chunks`` are into the empty directory ``destination``. A blob that is here
        may be an open file's descriptor, which the child reads itself; it is closed in any case.

        Errors are those of `asyncbuild.layers.unpack.unpack` and whatever ``chunks`` raises; then the
        destination (and ``tee``, a new file that gets the blob itself) holds anything.
        """
        job = UnpackJob(
            str(destination),
            descriptor.digest,
            descriptor.size,
            diff_id,
            None if tee is None else str(tee),
            self._limits,
        )
        return await self._run(job, Unpacked, chunks=chunks)

    async def pack(
        self,
        changes: ChangeSet,
        blob_path: Path,
        compression: Compression,
        on_progress: Callable[[int], None] = _ignore,
    ) -> PackedLayer:
        """Pack a change set into the new file ``blob_path``.

        ``on_progress`` gets the number of bytes that are in the file and final. Errors are those of
        `asyncbuild.layers.pack.pack`; then the file holds anything. Few and small files take a thread, and
        no child has to be started for them.
        """
        if _is_small(changes):
            with worker.explained():
                return await trio.to_thread.run_sync(
                    pack_to_file, changes, str(blob_path), compression
                )
        job = worker.PackJob(worker.flat(changes), str(blob_path), compression)
        return await self._run(job, PackedLayer, on_progress)

    async def pack_upper(  # noqa: PLR0913 - a step's upper directory is where, upon what, and how
        self,
        upper: Path,
        lowers: Sequence[Path],
        blob_path: Path,
        compression: Compression,
        on_progress: Callable[[int], None] = _ignore,
        *,
        trim: Trim | None = None,
    ) -> PackedLayer:
        """Pack what an overlay's upper directory changes of ``lowers``, the topmost first.

        See `asyncbuild.layers.snapshot.survey`. What is found never leaves the child.
        """
        below = tuple(str(lower) for lower in lowers)
        job = worker.PackUpperJob(str(upper), below, str(blob_path), compression, trim or Trim())
        return await self._run(job, PackedLayer, on_progress)

    async def materialise(self, changes: ChangeSet, destination: Path) -> UnpackedFacts:
        """Write a change set into the empty directory ``destination``, in overlay lower format."""
        job = worker.MaterialiseJob(worker.flat(changes), str(destination))
        return await self._run(job, UnpackedFacts)

    async def extract(self, archive: str, destination: Path) -> UnpackedFacts:
        """Unpack the tar archive at the path ``archive`` into the empty directory ``destination``.

        Errors are those of `asyncbuild.layers.extract.extract`; then the destination holds anything.
        """
        return await self._run(ExtractJob(archive, str(destination), self._limits), UnpackedFacts)

    async def list_root(self, lowers: Sequence[Path]) -> bytes:
        """The `Listing` of overlay lower directories, the topmost first, as a document."""
        return await self._run(worker.ListJob(tuple(map(str, lowers))), bytes)

    async def _run(
        self,
        job: worker.Job,
        kind: type[R],
        on_progress: Callable[[int], None] = _ignore,
        *,
        chunks: AsyncIterable[bytes] | int | None = None,
    ) -> R:
        with ExitStack() as closing:
            if isinstance(chunks, int):
                closing.callback(os.close, chunks)
            async with self._free:
                child = await self._child()
                try:
                    if chunks is None or isinstance(chunks, int):
                        await child.send(job, chunks)
                        answer = await child.answer(on_progress)
                    else:
                        answer = await child.exchange(job, chunks)
                except BaseException:
                    await child.kill()
                    raise
                self._idle.append(child)
        if isinstance(answer, worker.Failed):
            raise _error(answer)
        assert isinstance(answer.result, kind)
        return answer.result

    async def _child(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
            await child.kill()
        return await _Child.start()


def _is_small(changes: ChangeSet) -> bool:
    """Whether packing holds the interpreter lock for a few ms at most."""
    if len(changes.additions) > SMALL_ENTRIES:
        return False
    return sum(entry.size for entry in changes.additions) <= SMALL_BYTES


def _error(failed: worker.Failed) -> Exception:
    if failed.error is not None:
        return failed.error
    return RuntimeError(f"a layer worker failed unexpectedly:\n{failed.trace}")


class _Child:
    """One child process and the socket to it."""

    def __init__(self, process: trio.Process, peer: socket.socket, trace: int) -> None:
        self._process = process
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
        self._trace = trace

    @classmethod
    async def start(cls) -> Self:
        """Start a child; it is up some 30 ms later, and what is sent meanwhile waits for it."""
        ours, theirs = socket.socketpair()
        trace = os.memfd_create("worker-stderr")
        try:
            with theirs:
                process = await trio.lowlevel.open_process(
                    _command(),
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    stderr=trace,
                    env=_environment(),
                )
        except BaseException:
            ours.close()
            os.close(trace)
            raise
        return cls(process, ours, trace)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    async def send(self, job: worker.Job, pipe: int | None = None) -> None:
        """Send a job, and with it the read end of a pipe, or a file. That the child is gone `answer` will
        say.
        """
        message = memoryview(worker.encode(job))
        with suppress(trio.BrokenResourceError, BrokenPipeError, ConnectionResetError):
            if pipe is not None:
                # An idle child's socket has room: the head goes whole, and the descriptor with it.
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pipe]))
                head, message = message[: worker.LENGTH.size], message[worker.LENGTH.size :]
                await self._stream.socket.sendmsg([head], [rights])
            await self._stream.send_all(message)

    async def answer(self, on_progress: Callable[[int], None] = _ignore) -> worker.Answer:
        """What the child says at the end of its job; an error if it ended without a word."""
        while True:
            message = await self._receive()
            if isinstance(message, worker.Progress):
                on_progress(message.size)
            else:
                assert isinstance(message, worker.Answer)
                return message

    async def exchange(self, job: worker.Job, chunks: AsyncIterable[bytes]) -> worker.Answer:
        """Send a job and the bytes it needs; the answer, which may come before the last of them."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pipe = trio.lowlevel.FdStream(writing)
        try:
            with suppress(OSError):  # an unprivileged user may have used up all large pipes
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            await self.send(job, reading)
        except BaseException:
            await trio.aclose_forcefully(pipe)
            raise
        finally:
            os.close(reading)
        failures: list[Exception] = []
        answers: list[worker.Answer] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_feed, pipe, chunks, failures, nursery.cancel_scope)
            try:
                answers.append(await self.answer())
            except AsyncbuildError as error:
                failures.append(error)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        return answers[0]

    def end(self) -> None:
        """Let the process end at once, whatever it does; `kill` sees to the rest."""
        self._process.kill()

    async def kill(self) -> None:
        """End the process and forget it; also while the task is being cancelled, and never `Cancelled`."""
        self.end()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSING_SECONDS):
            await self._process.wait()
        if self._trace >= 0:
            os.close(self._trace)
            self._trace = -1
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    async def _receive(self) -> object:
        head = await self._receive_exactly(worker.LENGTH.size)
        return worker.decode(await self._receive_exactly(worker.LENGTH.unpack(head)[0]))

    async def _receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                piece = await self._stream.receive_some(count - len(data))
            except trio.BrokenResourceError:
                piece = b""
            if not piece:
                raise await self._death()
            data += piece
        return bytes(data)

    async def _death(self) -> AsyncbuildError:
        """The error for a child that ended in the middle of its job."""
        with trio.move_on_after(_CLOSING_SECONDS):
            await self._process.wait()
        code = self._process.poll()
        trace = os.pread(self._trace, _MAX_TRACE, 0).decode("utf-8", "replace").strip()
        if code is not None and code < 0:
            return AsyncbuildError(
                f"a layer worker was killed by {_signal_name(-code)}",
                hint="was there enough memory? (dmesg tells)" if code == -signal.SIGKILL else None,
            )
        return AsyncbuildError(
            f"a layer worker ended with code {code}: {trace or 'no word of why'}"
        )


async def _feed(
    pipe: trio.lowlevel.FdStream,
    chunks: AsyncIterable[bytes],
    failures: list[Exception],
    scope: trio.CancelScope,
) -> None:
    """Write ``chunks`` to the pipe and close both, when the child has read enough at the latest."""
    ends = aclosing(chunks) if isinstance(chunks, AsyncGenerator) else nullcontext()
    async with pipe, ends:
        try:
            async for chunk in chunks:
                try:
                    await pipe.send_all(chunk)
                except trio.BrokenResourceError:
                    return  # the child has its answer already
        except Exception as error:  # noqa: BLE001 - raised where the job is awaited, as it is
            failures.append(error)
            scope.cancel()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@cache
def _environment() -> dict[str, str]:
    """What Python and the loader may need, and no secret: a RUN in place sees all processes."""
    wanted = ("LD_", "MALLOC_", "PYTHON", "TMPDIR")
    return {name: value for name, value in os.environ.items() if name.startswith(wanted)}


def _command() -> tuple[str, ...]:
    """How a child is started: without site-packages, which it would take longer to look through."""
    package = _origin("asyncbuild")
    libraries = dict.fromkeys(str(_origin(name).parent) for name in ("isal", "zstandard"))
    isolated = ("-I", "-S", "-X", "utf8")
    return (*python(), *isolated, "-c", worker.BOOT, str(package), *libraries)


def _origin(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise AsyncbuildError(f"the package {name} is not installed as files")
    return Path(found.origin).parent
