"""Futures and promises: labelled one-shot cells over `trio.Event`.

1. A promise is kept once: with a value, with an error, or by being abandoned (its task was cancelled).
2. Each waiter gets a fresh exception made from the one cause, so that tracebacks do not grow together.
3. Nothing is cancelled through a future, and there are no callbacks: who waits, waits in its own task.
4. `spawn` settles its promise on every path, cancellation included; `Ledger.unsettled` shows it.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast

import trio

T = TypeVar("T")
_UNSET: Any = object()


class Abandoned(Exception):
    """The task that would have kept the promise was cancelled."""


class Future(Generic[T]):
    """The reading end: a value that is there, or will be."""

    __slots__ = ("_error", "_event", "_value", "label")

    def __init__(self, label: str) -> None:
        self.label = label
        self._event = trio.Event()
        self._value: T = _UNSET
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        state = "pending" if not self.done else "failed" if self._error else "done"
        return f"<Future {self.label}: {state}>"

    @property
    def done(self) -> bool:
        """Whether the promise was kept, failed or abandoned."""
        return self._event.is_set()

    @property
    def failed(self) -> bool:
        """Whether it is done without a value."""
        return self._error is not None

    async def wait(self) -> T:
        """The value; raises a fresh copy of the error with which the promise failed."""
        if not self.done:
            await self._event.wait()
        return self.value_nowait()

    def value_nowait(self) -> T:
        """The value of a future that is done."""
        if self._error is not None:
            raise fresh(self._error) from self._error
        if self._value is _UNSET:
            raise RuntimeError(f"{self!r} is not done")
        return self._value


class Promise(Future[T]):
    """The writing end. Keeping it twice is an error in our program."""

    __slots__ = ()

    def keep(self, value: T) -> None:
        """Settle with a value."""
        self._settle(value, None)

    def fail(self, error: BaseException) -> None:
        """Settle with an error, which every waiter gets a copy of."""
        self._settle(_UNSET, error)

    def abandon(self) -> None:
        """Settle because the work was cancelled."""
        self._settle(_UNSET, Abandoned(self.label))

    def _settle(self, value: T, error: BaseException | None) -> None:
        if self.done:
            raise RuntimeError(f"{self!r} is settled twice")
        self._value, self._error = value, error
        self._event.set()


class Ledger:
    """All promises of a session, so that a test can ask for those that nobody settled."""

    def __init__(self) -> None:
        self._promises: list[Promise[Any]] = []

    def promise(self, label: str) -> Promise[Any]:
        """A new promise, written down."""
        promise: Promise[Any] = Promise(label)
        self._promises.append(promise)
        return promise

    @property
    def unsettled(self) -> list[Promise[Any]]:
        """The promises that are still pending."""
        return [promise for promise in self._promises if not promise.done]

    def spawn(
        self,
        nursery: trio.Nursery,
        label: str,
        work: Callable[..., Awaitable[T]],
        *args: Any,
    ) -> Future[T]:
        """Start ``work(*args)`` as speculative work: its error is raised where it is awaited."""
        promise = self.promise(label)
        nursery.start_soon(_keep, promise, work, args, name=label)
        return cast("Future[T]", promise)


async def _keep(
    promise: Promise[Any], work: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> None:
    try:
        promise.keep(await work(*args))
    except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
        promise.fail(error)
    except BaseException:  # cancelled: alone, or in the group that a nursery makes of it
        promise.abandon()
        raise


def kept(label: str, value: T) -> Future[T]:
    """A future that is done from the start."""
    promise: Promise[T] = Promise(label)
    promise.keep(value)
    return promise


def fresh(error: BaseException) -> BaseException:
    """A copy of ``error`` with a traceback of its own; what cannot be copied is returned as it is."""
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - a foreign exception may refuse to be copied in any way
        return error
    if type(twin) is not type(error):
        return error
    twin.__traceback__ = None
    return twin
