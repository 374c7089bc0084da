"""Futures: one value, one error with a fresh copy for each waiter, settled on every path."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from asyncbuild.build.futures import Abandoned, Ledger, Promise, fresh, kept
from asyncbuild.errors import Exchange, RegistryUnavailable, RunFailed, SourceLocation


def test_value_reaches_every_waiter() -> None:
    """Waiters that come before and after the promise is kept get the same value."""

    async def main() -> None:
        promise: Promise[int] = Promise("answer")
        seen: list[int] = []

        async def wait() -> None:
            seen.append(await promise.wait())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            promise.keep(42)
        await wait()
        assert seen == [42, 42, 42]

    trio.run(main)


def test_each_waiter_gets_a_fresh_error() -> None:
    """Two waiters get two exception objects, both made from the one cause."""

    async def main() -> None:
        promise: Promise[int] = Promise("doomed")
        cause = RunFailed("exit code 7", code=7, location=SourceLocation("Dockerfile", 3, 3))
        promise.fail(cause)
        caught = []
        for _ in range(2):
            with pytest.raises(RunFailed) as info:
                await promise.wait()
            caught.append(info.value)
        assert caught[0] is not caught[1]
        assert caught[0].__cause__ is cause
        assert caught[0].exit_code == 7
        assert str(caught[1].location) == "Dockerfile:3:1"

    trio.run(main)


def test_copies_keep_what_an_error_says() -> None:
    """A fresh copy of a registry's error has its message, exchange and hint."""
    error = RegistryUnavailable(
        "no answer", exchange=Exchange("GET", "http://r/v2/", 503, "busy"), hint="try later"
    )
    twin = fresh(error)
    assert isinstance(twin, RegistryUnavailable)
    assert twin is not error
    assert (str(twin), twin.exchange, twin.hint) == (str(error), error.exchange, error.hint)


def test_settling_twice_is_an_error() -> None:
    """A promise is kept once."""
    promise: Promise[int] = Promise("once")
    promise.keep(1)
    with pytest.raises(RuntimeError, match="settled twice"):
        promise.keep(2)


def test_spawn_settles_on_every_path() -> None:
    """Value, error and cancellation all settle the promise of spawned work."""

    async def good() -> str:
        return "value"

    async def bad() -> str:
        raise OSError(5, "no")

    async def main() -> None:
        ledger = Ledger()
        futures: list[Any] = []
        async with trio.open_nursery() as nursery:
            futures.append(ledger.spawn(nursery, "good", good))
            futures.append(ledger.spawn(nursery, "bad", bad))
            futures.append(ledger.spawn(nursery, "endless", trio.sleep_forever))
            await trio.testing.wait_all_tasks_blocked()
            assert [future.done for future in futures] == [True, True, False]
            nursery.cancel_scope.cancel()
        assert ledger.unsettled == []
        assert await futures[0].wait() == "value"
        with pytest.raises(OSError, match="no"):
            await futures[1].wait()
        with pytest.raises(Abandoned):
            await futures[2].wait()

    trio.run(main)


def test_work_cancelled_before_it_starts_is_settled() -> None:
    """Work whose nursery is cancelled before its first step is abandoned, not forgotten."""

    async def main() -> None:
        ledger = Ledger()
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.cancel()
            ledger.spawn(nursery, "late", trio.sleep_forever)
        assert ledger.unsettled == []

    trio.run(main)


def test_kept_is_done_at_once() -> None:
    """A kept future needs no task."""
    future = kept("known", 3)
    assert future.done
    assert future.value_nowait() == 3
