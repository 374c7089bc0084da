"""Streams: never more than there are, the largest of those that wait first, and none is lost."""

from __future__ import annotations

import random

import trio
import trio.testing

from asyncbuild.build.streams import Streams


def test_the_largest_of_all_that_begin_together_are_first() -> None:
    """In whichever order their tasks happen to run, and whoever comes later waits by size, too."""
    order: list[int] = []

    async def main() -> None:
        streams = Streams(2)

        async def fetch(size: int) -> None:
            async with streams.one(size):
                order.append(size)
                await trio.testing.wait_all_tasks_blocked()

        async with trio.open_nursery() as nursery:
            for size in (3, 9, 1, 7, 5):
                nursery.start_soon(fetch, size)

    trio.run(main)
    assert set(order[:2]) == {9, 7}
    assert set(order[2:4]) == {5, 3}
    assert order[4] == 1


def test_streams_come_back_from_whoever_leaves() -> None:
    """Cancelled while waiting or while fetching: the number of streams stays what it is."""
    chance = random.Random(3)

    async def main() -> None:
        streams = Streams(3)
        running = most = 0

        async def fetch(size: int) -> None:
            nonlocal running, most
            with trio.move_on_after(chance.random() / 100):
                async with streams.one(size):
                    running += 1
                    most = max(most, running)
                    try:
                        await trio.sleep(chance.random() / 100)
                    finally:
                        running -= 1

        async with trio.open_nursery() as nursery:
            for size in range(300):
                nursery.start_soon(fetch, size)
        assert most == 3
        with trio.fail_after(10):
            async with streams.one(1), streams.one(1), streams.one(1):
                pass

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
