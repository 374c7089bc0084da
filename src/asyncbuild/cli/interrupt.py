"""Signals: a Ctrl-C or a pod's eviction cancels the build, which then cleans up after itself."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from asyncbuild.errors import AsyncbuildError


class Interrupted(AsyncbuildError):
    """The build was ended by a signal; the exit code is a shell's, 128 and the signal's number."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        self.exit_code = 128 + number


@asynccontextmanager
async def interruptible(signals: Iterable[signal.Signals]) -> AsyncIterator[None]:
    """Cancel the body when one of ``signals`` comes, and raise `Interrupted` once it has ended."""
    caught: list[signal.Signals] = []

    async def watch(arrived: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in arrived:
            caught.append(signal.Signals(number))
            scope.cancel()

    try:
        with trio.open_signal_receiver(*signals) as arrived:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, arrived, nursery.cancel_scope)
                yield
                nursery.cancel_scope.cancel()
    except Exception as error:
        if caught:  # what failed on the way out is not what a person should read
            raise Interrupted(caught[0]) from error
        raise
    if caught:
        raise Interrupted(caught[0])
