"""Turns: workers are for what has arrived, half of them follow the largest, and none idles for nothing."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.turns import Turns


def begun(
    sizes: list[int], come: list[int], arrive: list[int], count: int = 2, least: int = 0
) -> list[int]:
    """Which blobs have a turn after a byte of those at ``come`` has come, one after the other, and those at
    ``arrive`` have arrived, nobody having given one back.
    """
    running: list[int] = []

    async def main() -> None:
        turns = Turns(count, least)
        blobs = [GrowingFile(Path(f"/nowhere/{n}"), size) for n, size in enumerate(sizes)]

        async def work(number: int) -> None:
            async with turns.turn(blobs[number]):
                running.append(number)
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            for number in range(len(blobs)):
                nursery.start_soon(work, number)
            await trio.testing.wait_all_tasks_blocked()
            for number in come:
                blobs[number].advance(1)
                await trio.testing.wait_all_tasks_blocked()
            for number in arrive:
                blobs[number].finish()
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    return sorted(running)


def test_few_blobs_are_all_followed() -> None:
    """With no more blobs than workers each is unpacked while it arrives."""
    assert begun([5, 7], [], []) == [0, 1]


def test_what_comes_is_followed() -> None:
    """Not a larger one of which nothing has come: others would wait for a worker that waits for it."""
    assert begun([5, 9, 7, 6], [], []) == []
    assert begun([5, 9, 7, 6], [3, 0], []) == [0, 3]


def test_the_largest_of_what_comes_are_followed() -> None:
    """With many blobs half of the workers, two at least, follow the largest; the others wait for arrivals."""
    assert begun([5, 9, 7, 6], [1, 2, 3, 0], []) == [1, 2]
    assert begun([5, 9, 7, 6], [2], [], count=1) == [2]
    many = list(range(1, 21))
    assert len(begun(many, list(range(20)), [], count=8)) == 4


def test_an_arrival_gets_another_worker() -> None:
    """The first blob that has arrived is unpacked beside the two that come, and no fourth gets a turn."""
    assert begun([5, 9, 7, 6], [1, 2], [3, 0], count=3) == [1, 2, 3]
    assert begun([5, 9, 7, 6], [], [3, 0]) == [0, 3]


def test_small_blobs_have_no_worker_before_they_arrive() -> None:
    """The large ones are followed as if they were alone; a small one that is here is unpacked."""
    assert begun([1, 1, 8, 1, 9], [], [], least=5) == [2, 4]
    assert begun([1, 1, 1], [], [], least=5) == []
    assert begun([1, 1, 9], [], [1], least=5) == [1, 2]


def test_turns_come_back() -> None:
    """However they arrive, every blob gets its turn."""

    async def main() -> None:
        turns = Turns(2)
        blobs = [GrowingFile(Path(f"/nowhere/{n}"), n) for n in range(9)]
        done: list[int] = []

        async def work(number: int) -> None:
            async with turns.turn(blobs[number]):
                await blobs[number].wait_complete()
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(work, number)
            for blob in blobs:
                await trio.testing.wait_all_tasks_blocked()
                blob.finish()
        assert sorted(done) == list(range(9))

    trio.run(main)
