"""Growing files: readers follow the writer, see every byte once, and share its failure."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.build.growing import GrowingBody, GrowingFile, Tail
from asyncbuild.errors import IntegrityError


class Chunks:
    """An async iterator over given chunks, with a scheduling point before each; may end in an error."""

    def __init__(self, chunks: Sequence[bytes], error: Exception | None = None) -> None:
        self._chunks = list(chunks)
        self._error = error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._chunks:
            return self._chunks.pop(0)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration


def test_a_complete_file_is_opened_anew_wherever_it_is(tmp_path: Path) -> None:
    """At its first byte each time, after a rename too; one that still grows is followed."""

    async def main() -> None:
        file = GrowingFile(tmp_path / "file")
        await file.write_from(Chunks([b"one", b"two"]))
        (tmp_path / "file").rename(tmp_path / "other")
        for _ in range(2):
            descriptor = file.whole_or_tail()
            assert isinstance(descriptor, int)
            assert os.read(descriptor, 100) == b"onetwo"
            os.close(descriptor)
        file.close()
        assert isinstance(GrowingFile(tmp_path / "third").whole_or_tail(), Tail)

    trio.run(main)


@given(chunks=st.lists(st.binary(max_size=40), max_size=12), readers=st.integers(1, 3))
def test_every_reader_sees_every_byte(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], readers: int
) -> None:
    """However the writer cuts its chunks, each reader gets the same bytes in order."""
    path = tmp_path_factory.mktemp("growing") / "file"

    async def main() -> None:
        file = GrowingFile(path)
        got: list[bytes] = []

        async def read() -> None:
            got.append(b"".join([chunk async for chunk in file.tail()]))

        async with trio.open_nursery() as nursery:
            for _ in range(readers):
                nursery.start_soon(read)
            nursery.start_soon(file.write_from, Chunks(chunks))
        assert got == [b"".join(chunks)] * readers
        file.close()

    trio.run(main)


def test_a_reader_waits_for_more(tmp_path: Path) -> None:
    """A reader that has read all there is waits until the file has grown or is complete."""

    async def main() -> None:
        path = tmp_path / "file"
        path.write_bytes(b"abcdef")
        file = GrowingFile(path)
        file.advance(3)
        tail = file.tail()
        assert await tail.next_chunk() == b"abc"
        async with trio.open_nursery() as nursery:

            async def rest() -> None:
                assert await tail.next_chunk() == b"def"
                assert await tail.next_chunk() == b""

            nursery.start_soon(rest)
            await trio.testing.wait_all_tasks_blocked()
            file.advance(6)
            await trio.testing.wait_all_tasks_blocked()
            file.finish()
        file.close()

    trio.run(main)


def test_readers_share_the_writers_failure(tmp_path: Path) -> None:
    """When the writer fails, readers that wait and readers that come later raise its error."""

    async def main() -> None:
        file = GrowingFile(tmp_path / "file")
        with pytest.raises(IntegrityError, match="too short"):
            await file.write_from(Chunks([b"x"], IntegrityError("too short")))
        tail = file.tail()
        assert await tail.next_chunk() == b"x"
        with pytest.raises(IntegrityError, match="too short"):
            await tail.next_chunk()
        file.close()

    trio.run(main)


def test_the_file_may_move_while_it_is_read(tmp_path: Path) -> None:
    """A rename does not disturb a reader that has begun."""

    async def main() -> None:
        path = tmp_path / "file"
        path.write_bytes(b"0123456789")
        file = GrowingFile.whole(path)
        file.open()
        path.rename(tmp_path / "elsewhere")
        assert b"".join([chunk async for chunk in file.tail()]) == b"0123456789"
        file.close()

    trio.run(main)


def test_a_body_is_read_again_from_the_start(tmp_path: Path) -> None:
    """A request that is repeated sends everything, and its progress begins anew."""

    async def main() -> None:
        path = tmp_path / "file"
        path.write_bytes(b"0123456789")
        positions: list[int] = []
        body = GrowingBody(GrowingFile.whole(path), 10, positions.append)
        for _ in range(2):
            reading = body.read()
            assert await reading.next_chunk() == b"0123456789"
            assert await reading.next_chunk() == b""
        assert positions == [0, 10, 0, 10]
        body.file.close()

    trio.run(main)
