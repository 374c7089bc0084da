"""A child process that packs and unpacks layers, so that no interpreter lock is shared with the build.

It is started with one end of a Unix stream socket as its standard input, and serves one job after the
other. A message is a length (8 bytes, big endian) and a pickle; both ends are this program. A job that
needs a blob's bytes comes with the read end of a pipe, or the file that has them all (SCM_RIGHTS). While a
layer is packed, `Progress` messages say how large its file is. The child ends when the socket does: it
never outlives the build.

Nothing heavy is imported here: a child is up in some 30 ms and takes some 20 MB.
"""

from __future__ import annotations

import ctypes
import gc
import marshal
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from asyncbuild.errors import AsyncbuildError, StoreError
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, InlineSource, Kind
from asyncbuild.layers.compression import Compression
from asyncbuild.layers.extract import ExtractJob, extract
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.listing import list_root
from asyncbuild.layers.materialise import materialise
from asyncbuild.layers.pack import PackedLayer, pack_to_file
from asyncbuild.layers.sidebyside import processors
from asyncbuild.layers.snapshot import survey
from asyncbuild.layers.trim import Trim
from asyncbuild.layers.unpack import Unpacked, UnpackJob, unpack
from asyncbuild.records import dataclass

LENGTH: Final = struct.Struct(">Q")
BOOT: Final = (
    # The package's own __init__ is the public face, which imports everything: here it stays out.
    "import sys, types; p = types.ModuleType('asyncbuild'); p.__path__ = [sys.argv[1]];"
    " sys.modules['asyncbuild'] = p; sys.path += sys.argv[2:];"
    " from asyncbuild.layers.worker import main; main()"
)
"""The program text for ``python -c``; arguments: the package's directory, then those of libraries."""

_PROGRESS_STEP: Final = 256 << 10
_READ: Final = 256 << 10
_KEEP: Final = 32 << 20
_M_TRIM_THRESHOLD: Final = -1  # <malloc.h>
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


@dataclass(frozen=True, slots=True)
class PackJob:
    """Pack ``changes`` (a `flat` change set) into the new file ``blob_path``."""

    changes: bytes
    blob_path: str
    compression: Compression


@dataclass(frozen=True, slots=True)
class PackUpperJob:
    """Pack what the overlay upper directory ``upper`` changes of ``lowers``, the topmost first, trimmed."""

    upper: str
    lowers: tuple[str, ...]
    blob_path: str
    compression: Compression
    trim: Trim


@dataclass(frozen=True, slots=True)
class MaterialiseJob:
    """Write ``changes`` (a `flat` change set) into the empty directory ``destination``."""

    changes: bytes
    destination: str


@dataclass(frozen=True, slots=True)
class ListJob:
    """List what the overlay lower directories ``lowers`` show, the topmost first; gives the document."""

    lowers: tuple[str, ...]


Job = UnpackJob | PackJob | PackUpperJob | MaterialiseJob | ExtractJob | ListJob
Result = Unpacked | PackedLayer | UnpackedFacts | bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """So many bytes are in the file that is being packed."""

    size: int


@dataclass(frozen=True, slots=True)
class Done:
    """The job's result."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """The job's error, one of ours; or the text of a traceback, for what should not have happened."""

    error: AsyncbuildError | None
    trace: str = ""


Answer = Done | Failed
Message = Progress | Answer


def encode(message: Job | Message) -> bytes:
    """A message with its length."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def decode(body: bytes | bytearray) -> object:
    """The message of a body; both ends of the socket are this program."""
    return pickle.loads(body)  # noqa: S301


def flat(changes: ChangeSet) -> bytes:
    """A change set as bytes for a job: eight times faster than pickle, 1 us an entry.

    The build's event loop stands still meanwhile, and a COPY may have 100,000 files.
    """
    rows = [
        (
            *(entry.path, entry.kind.value, entry.mode, entry.uid, entry.gid, entry.mtime_ns),
            *(entry.size, entry.link, entry.device, entry.xattrs, _source_value(entry.source)),
        )
        for entry in changes.additions
    ]
    return marshal.dumps((rows, changes.deletions, changes.opaque))


def unflat(data: bytes) -> ChangeSet:
    """The change set that `flat` made ``data`` of."""
    rows, deletions, opaque = marshal.loads(data)  # noqa: S302 - both ends are this program
    kinds = {kind.value: kind for kind in Kind}
    additions = tuple(
        Entry(path, kinds[kind], mode, uid, gid, mtime, size, link, device, xattrs, _source(source))
        for path, kind, mode, uid, gid, mtime, size, link, device, xattrs, source in rows
    )
    return ChangeSet(additions, deletions, opaque)


def _source_value(source: FileSource | InlineSource | None) -> str | bytes | None:
    if source is None:
        return None
    return source.path if isinstance(source, FileSource) else source.data


def _source(value: str | bytes | None) -> FileSource | InlineSource | None:
    if isinstance(value, str):
        return FileSource(value)
    return None if value is None else InlineSource(value)


def main() -> None:
    """Serve jobs from the socket on descriptor 0 until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the build's to handle
    os.umask(0)
    _keep_memory()
    gc.disable()
    gc.freeze()
    peer = socket.socket(fileno=0)
    threading.Thread(target=_end_with_peer, name="peer", daemon=True).start()
    while True:
        job, pipe = _receive(peer)
        if job is None:
            os._exit(0)
        try:
            answer = _answer(job, pipe, peer)
        finally:
            if pipe is not None:
                os.close(pipe)
        peer.sendall(encode(answer))
        del job, answer
        gc.collect()


def _keep_memory() -> None:
    """Let blocks of a MiB be used again, in whatever thread, and not go back to the system each time.

    Otherwise each page of each block is a fault: a twentieth of what unpacking a large layer takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _KEEP)
        mallopt(_M_TRIM_THRESHOLD, _KEEP)


def _end_with_peer() -> None:
    """End this process the moment the other end of the socket is gone, whatever it is doing."""
    poll = select.poll()
    poll.register(0, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


def _receive(peer: socket.socket) -> tuple[Job | None, int | None]:
    head, descriptors, _, _ = socket.recv_fds(peer, LENGTH.size, 1)
    if not head:
        return None, None
    while len(head) < LENGTH.size:
        head += peer.recv(LENGTH.size - len(head))
    body = bytearray(LENGTH.unpack(head)[0])
    view = memoryview(body)
    while view:
        count = peer.recv_into(view)
        if not count:
            return None, None
        view = view[count:]
    job = decode(body)
    assert isinstance(job, Job)
    return job, descriptors[0] if descriptors else None


@contextmanager
def explained() -> Iterator[None]:
    """An error of the system becomes one of ours."""
    try:
        yield
    except OSError as error:
        about = f": {error.filename!r}" if error.filename else ""
        raise StoreError.of(f"a layer cannot be written{about}", error) from None


def _answer(job: Job, pipe: int | None, peer: socket.socket) -> Answer:
    try:
        with explained():
            return Done(_do(job, pipe, peer))
    except AsyncbuildError as error:
        error.__traceback__ = None
        return Failed(error)
    except Exception:  # noqa: BLE001 - the build shows it; this process goes on
        import traceback  # noqa: PLC0415 - 3 ms of every child's start

        return Failed(None, traceback.format_exc())


def _do(job: Job, pipe: int | None, peer: socket.socket) -> Result:
    if isinstance(job, UnpackJob):
        assert pipe is not None
        return unpack(job, _chunks(pipe))
    if isinstance(job, MaterialiseJob):
        return materialise(unflat(job.changes), job.destination)
    if isinstance(job, ExtractJob):
        return extract(job)
    if isinstance(job, ListJob):
        return list_root(job.lowers).encode()
    changes = (
        unflat(job.changes)
        if isinstance(job, PackJob)
        else job.trim.surveyed(survey(job.upper, job.lowers, job.trim.ignored))
    )
    report = _Reporter(peer).report
    return pack_to_file(changes, job.blob_path, job.compression, report, processors())


def _chunks(pipe: int) -> Iterator[bytes]:
    while chunk := os.read(pipe, _READ):
        yield chunk


class _Reporter:
    """Tells the build how a file grows, in steps that are worth a message."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._told = 0

    def report(self, size: int) -> None:
        if size - self._told >= _PROGRESS_STEP:
            self._told = size
            self._peer.sendall(encode(Progress(size)))


if __name__ == "__main__":
    sys.exit("this program is started by asyncbuild itself")
