"""Many files packed by several processes side by side, their bytes joined in order.

The members of a layer are cut into pieces by their number. Each of a few forked processes takes the next
piece that no one has and writes its bytes to a pipe of its own, which holds it up when it is far ahead; one
that shares its processor makes fewer. Here they are read in their order, straight into the blocks that are
hashed and compressed. So the tar is the same however many processes there are, and none of them holds more
than a portion of it.

What goes through a pipe is the number of a piece, then frames: lengths, then a pickle (a large file that
this process copies itself, or an error), then bytes of the tar. A process that helps has no other
descriptor but the numbers', writes nowhere else, and ends with the one that started it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pickle
import select
import signal
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

from asyncbuild.errors import AsyncbuildError
from asyncbuild.layers.members import Member, cut, weight
from asyncbuild.layers.portions import LargeFile, Piped, Portion, portions

MOST: Final = 4
"""More processes are of no use: what they make is hashed in one thread."""
FEW: Final = 2_000
"""Up to so many names are packed here: a process is started in some 2 ms, and a name takes 7 us."""
PIECE: Final = 256
_TICKET: Final = struct.Struct("=L")
_FRAME: Final = struct.Struct("=QLLB")
_PIPE_SIZE: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1
_STDERR: Final = 2


def processors() -> int:
    """On how many processors this process may run."""
    return len(os.sched_getaffinity(0))


@contextmanager
def side_by_side(members: Sequence[Member], processes: int) -> Iterator[Iterator[Portion]]:
    """The portions of ``members``, made by so many processes (at most `MOST`) if that is worth it.

    What is `Piped` must be read before the next portion is asked for. Errors are those of `portions`.
    """
    if processes < 2 or weight(members) <= FEW:
        yield portions(members)
        return
    pieces = list(cut(members, PIECE))
    helpers = _start(pieces, min(processes, MOST, len(pieces)))
    if not helpers:
        yield portions(members)
        return
    try:
        yield _joined(helpers, len(pieces))
    finally:
        for helper in helpers:
            helper.end()


class _Helper:
    """A process that makes pieces, and the pipe that they come from.

    ``at`` is the number of the piece that comes next, None if it has not been read, -1 if none comes.
    """

    def __init__(self, process: int, reading: int) -> None:
        self._process = process
        self.reading = reading
        self.at: int | None = None

    def hear(self) -> None:
        """Read which piece comes next."""
        head = os.read(self.reading, _TICKET.size)
        if head:
            head += self._receive(_TICKET.size - len(head))
        self.at = _TICKET.unpack(head)[0] if head else -1

    def piece(self) -> Iterator[Portion]:
        """The portions of its next piece."""
        self.at = None
        while True:
            size, members, noted, last = _FRAME.unpack(self._receive(_FRAME.size))
            # Both ends are this program.
            note = pickle.loads(self._receive(noted)) if noted else None  # noqa: S301
            if isinstance(note, Exception):
                raise note
            if last:
                return
            yield Portion(Piped(self.reading, size), members, note)

    def end(self) -> None:
        """Whatever it does: what it made and no one has read is of no use."""
        os.close(self.reading)
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = os.read(self.reading, count - len(data))
            if not piece:
                raise ended()
            data += piece
        return data


def ended() -> AsyncbuildError:
    """The error for a process that is gone in the middle of a piece."""
    return AsyncbuildError(
        "a process that packs a layer ended before its work was done",
        hint="was there enough memory? (dmesg tells)",
    )


def _joined(helpers: Sequence[_Helper], pieces: int) -> Iterator[Portion]:
    for number in range(pieces):
        yield from _whose(helpers, number).piece()


def _whose(helpers: Sequence[_Helper], number: int) -> _Helper:
    """The process that has made this piece; all before it are read, so it is the next one of its pipe."""
    while True:
        silent = [helper for helper in helpers if helper.at is None]
        for helper in helpers:
            if helper.at == number:
                return helper
        if not silent:
            raise ended()
        poll = select.poll()
        for helper in silent:
            poll.register(helper.reading, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        for helper in silent:
            if helper.reading in ready:
                helper.hear()


def _start(pieces: Sequence[Sequence[Member]], count: int) -> list[_Helper]:
    """The processes, or none where not all of them can be started."""
    tickets = _tickets(len(pieces))
    try:
        return _start_all(pieces, tickets, count)
    finally:
        os.close(tickets)


def _tickets(count: int) -> int:
    """A file of numbers, of which each process that shares its descriptor gets another one by `_next`."""
    tickets = os.memfd_create("pieces")
    os.write(tickets, b"".join(map(_TICKET.pack, range(count))))
    os.lseek(tickets, 0, os.SEEK_SET)
    return tickets


def _next(tickets: int) -> bytes:
    """The next number; nothing at the end. Of a file in memory the kernel does not lock the offset."""
    fcntl.lockf(tickets, fcntl.LOCK_EX)
    try:
        return os.read(tickets, _TICKET.size)
    finally:
        fcntl.lockf(tickets, fcntl.LOCK_UN)


def _start_all(pieces: Sequence[Sequence[Member]], tickets: int, count: int) -> list[_Helper]:
    helpers: list[_Helper] = []
    for _ in range(count):
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):  # an unprivileged user may have used up all large pipes
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        parent = os.getpid()
        try:
            process = os.fork()
            if not process:
                _help(pieces, tickets, writing, parent)
        except OSError:  # there are as many processes as a pod may have
            os.close(reading)
            for helper in helpers:
                helper.end()
            return []
        finally:
            os.close(writing)
        helpers.append(_Helper(process, reading))
    return helpers


def _help(pieces: Sequence[Sequence[Member]], tickets: int, writing: int, parent: int) -> NoReturn:
    """All that the new process does."""
    try:
        _stand_alone((tickets, writing), parent)
        _make(pieces, tickets, writing)
    except BrokenPipeError:
        pass  # no one wants to know any more
    finally:
        os._exit(0)


def _stand_alone(kept: Sequence[int], parent: int) -> None:
    """Hold nothing of the parent's open, and end with it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    begin = 0
    for descriptor in sorted((_STDERR, *kept)):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, os.sysconf("SC_OPEN_MAX"))


def _make(pieces: Sequence[Sequence[Member]], tickets: int, writing: int) -> None:
    try:
        while ticket := _next(tickets):
            os.write(writing, ticket)
            for portion in portions(pieces[_TICKET.unpack(ticket)[0]]):
                assert isinstance(portion.data, bytes)
                _send(writing, portion.data, portion.members, portion.file)
            _send(writing, last=True)
    except BrokenPipeError:
        raise
    except (AsyncbuildError, OSError) as error:
        error.__traceback__ = None
        _send(writing, note=error)
    except Exception:  # noqa: BLE001 - the parent shows it
        import traceback  # noqa: PLC0415 - 3 ms of every start

        _send(writing, note=RuntimeError(traceback.format_exc()))


def _send(
    writing: int,
    data: bytes = b"",
    members: int = 0,
    note: LargeFile | Exception | None = None,
    *,
    last: bool = False,
) -> None:
    noted = b"" if note is None else pickle.dumps(note)
    head = _FRAME.pack(len(data), members, len(noted), last) + noted
    for view in (memoryview(head), memoryview(data)):
        while view:
            view = view[os.write(writing, view) :]  # noqa: PLW2901
