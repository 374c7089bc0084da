"""Streams: never more than there are, the largest of those that wait first, and none is lost."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import trio
import trio.testing

from asyncbuild.build.streams import Streams


def test_the_largest_of_all_that_begin_together_are_first() -> None:
    """In whichever order their tasks happen to run, and whoever comes later waits by size, too."""
    order: list[int] = []

    async def main() -> None:
        streams = Streams(2)

        async def fetch(size: int) -> None:
            async with streams.one(size, size):
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
                async with streams.one(size, size):
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
            async with streams.one(1, 1), streams.one(1, 2), streams.one(1, 3):
                pass

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def begun(streams: Streams, *wanted: tuple[str, int, int]) -> Counter[str]:
    """How many streams each owner has at first, of ``(owner, count, size)`` that all want them."""
    having: Counter[str] = Counter()

    async def fetch(owner: str, size: int) -> None:
        async with streams.one(size, owner):
            having[owner] += 1
            await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for owner, count, size in wanted:
                for _ in range(count):
                    nursery.start_soon(fetch, owner, size)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    return having


def test_a_blob_that_is_alone_has_all_streams() -> None:
    """Nobody else wants them."""
    assert begun(Streams(8), ("large", 20, 1000)) == {"large": 8}


def test_a_blob_that_is_not_alone_has_half_of_them() -> None:
    """The second largest has the other half; but what others leave is for the largest."""
    two = begun(Streams(8), ("large", 20, 1000), ("second", 20, 900), ("small", 1, 1))
    assert two == {"large": 4, "second": 4}
    beside = begun(Streams(8), ("large", 20, 1000), ("small", 1, 1))
    assert beside == {"large": 7, "small": 1}


def test_brief_blobs_come_beside_the_others() -> None:
    """They take no stream of a large one, and are no more at once than may be."""
    having: Counter[str] = Counter()

    async def fetch(streams: Streams, owner: str, *, brief: bool) -> None:
        async with streams.one(1, owner, brief=brief):
            having[owner] += 1
            await trio.sleep_forever()

    async def main(beside: int) -> None:
        streams = Streams(4, beside)
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(partial(fetch, streams, "large", brief=False))
                nursery.start_soon(partial(fetch, streams, "brief", brief=True))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main, 6)
    assert having == {"large": 4, "brief": 6}
    having.clear()
    trio.run(main, 0)
    assert having == {"large": 2, "brief": 2}


def test_many_small_blobs_are_one_wave() -> None:
    """Each has one stream, as long as there are some."""
    wanted = [(f"blob {number}", 1, 1 << 20) for number in range(30)]
    assert begun(Streams(24), *wanted).total() == 24
