"""Work in threads that keeps its order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.layers.ahead import Ahead, Ordered


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"ahead", "ordered"}


@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_all_items_come_in_order(items: list[int], depth: int) -> None:
    """Nothing is lost, nothing overtakes, and no thread is left."""
    with Ahead(items, depth) as read:
        assert list(read) == items
    assert not _threads()


def test_it_runs_in_another_thread_but_not_far_ahead() -> None:
    """At most ``depth`` items wait, and one is in the thread's hands."""
    made: list[int] = []
    asked = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(threading.get_ident())
            asked.release()
            yield number

    with Ahead(items(), 2) as read:
        assert next(read) == 0
        for _ in range(4):
            assert asked.acquire(timeout=10)
        assert len(made) == 4
        assert threading.get_ident() not in made


def test_an_error_reaches_the_reader() -> None:
    """After the items before it."""

    def items() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    with Ahead(items(), 2) as read:
        assert next(read) == 1
        with pytest.raises(KeyError, match="broken"):
            next(read)
    assert not _threads()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_leaving_early_stops_the_thread(taken: int) -> None:
    """Whether the queue is full or not, endless items end."""

    def items() -> Iterator[int]:
        while True:
            yield 1

    with Ahead(items(), 3) as read:
        for _ in range(taken):
            next(read)
    assert not _threads()


@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_results_keep_the_order_of_their_items(items: list[int], threads: int) -> None:
    """However many threads compute them."""
    results: list[int] = []
    doubling: Ordered[int, int] = Ordered(lambda item: item * 2, threads)
    with doubling as ordered:
        for item in items:
            results += ordered.put(item)
        results += ordered.rest()
    assert results == [item * 2 for item in items]
    assert not _threads()


def test_no_more_than_the_threads_can_hold_is_under_way() -> None:
    """After a put at most as many results are outstanding as there are threads."""
    gate = threading.Semaphore(0)

    def wait(item: int) -> int:
        assert gate.acquire(timeout=10)
        return item

    with Ordered(wait, 2) as ordered:
        assert [*ordered.put(1), *ordered.put(2)] == []
        gate.release(3)
        assert [*ordered.put(3)][:1] == [1]
        list(ordered.rest())


def test_a_function_that_fails_fails_the_caller() -> None:
    """Where its result would come out."""
    dividing: Ordered[int, int] = Ordered(lambda item: 1 // item, 2)
    with dividing as ordered:
        results = [*ordered.put(1)]
        with pytest.raises(ZeroDivisionError):
            results += [*ordered.put(0), *ordered.rest()]
    assert not _threads()
