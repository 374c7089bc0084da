"""Work in threads that keeps its order: an iterator that runs ahead, and a function over a sequence.

Hashing and (de)compression release the interpreter lock, so a second thread is a second processor.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _End:
    """The last thing in a queue: the iterator ended, with ``error`` or well."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Iterates over ``items`` in a thread of its own, at most ``depth`` items ahead of its reader.

    A context manager; leaving it stops the thread after the item at hand and waits for it. What
    ``items`` raises is raised to the reader.
    """

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._read()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)  # make room, so that the thread comes to look
            except queue.Empty:
                continue
        self._thread.join()

    def _run(self) -> None:
        end = _End()
        try:
            for item in self._items:
                if self._stopped:
                    return
                self._queue.put(item)
        except BaseException as error:  # noqa: BLE001 - it is raised in the reader's thread
            end = _End(error)
        if not self._stopped:
            self._queue.put(end)

    def _read(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item


class Ordered(Generic[T, R]):
    """Applies ``function`` to what is `put`, in ``threads`` threads; results come out in that order.

    A context manager. With one thread ``function`` may keep state. At most ``threads + 1`` items are
    under way; `put` gives the results that are finished and, when it must wait, waits for one.
    """

    def __init__(self, function: Callable[[T], R], threads: int) -> None:
        self._function = function
        self._work: queue.SimpleQueue[tuple[T, queue.SimpleQueue[R | _End]] | None] = (
            queue.SimpleQueue()
        )
        self._results: deque[queue.SimpleQueue[R | _End]] = deque()
        self._limit = threads + 1
        self._threads = [
            threading.Thread(target=self._run, name="ordered", daemon=True) for _ in range(threads)
        ]

    def __enter__(self) -> Ordered[T, R]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def put(self, item: T) -> Iterator[R]:
        """Hand over ``item``; yields finished results, the oldest first."""
        result: queue.SimpleQueue[R | _End] = queue.SimpleQueue()
        self._results.append(result)
        self._work.put((item, result))
        while len(self._results) >= self._limit or (self._results and not self._results[0].empty()):
            yield self._oldest()

    def rest(self) -> Iterator[R]:
        """Yield all results that are outstanding."""
        while self._results:
            yield self._oldest()

    def _oldest(self) -> R:
        result = self._results.popleft().get()
        if isinstance(result, _End):
            assert result.error is not None
            raise result.error
        return result

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            item, result = job
            try:
                result.put(self._function(item))
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
                result.put(_End(error))
