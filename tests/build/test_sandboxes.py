"""Sandboxes that are started ahead: never more than wanted, and none is left."""

from __future__ import annotations

import os

import trio

from asyncbuild.build.futures import Ledger
from asyncbuild.build.sandboxes import Sandboxes
from support.builds import descendants


def count() -> int:
    """How many processes run below this one."""
    return len(descendants(os.getpid()))


def test_one_waits_and_is_taken() -> None:
    """Two calls to prepare start one; who takes it closes it, and the next one is new."""
    before = count()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            sandboxes = Sandboxes(nursery, Ledger())
            sandboxes.prepare()
            sandboxes.prepare()
            first = await sandboxes.take()
            assert count() == before + 1
            second = await sandboxes.take()
            assert second is not first
            await first.aclose()
            await second.aclose()
        await sandboxes.aclose()

    trio.run(main)
    assert count() == before


def test_what_nobody_took_is_ended() -> None:
    """Also one that was still being started when its nursery was cancelled."""
    before = count()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            sandboxes = Sandboxes(nursery, Ledger())
            sandboxes.prepare()
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await sandboxes.aclose()

    trio.run(main)
    assert count() == before
