"""One error out of the many that a nursery raises together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asyncbuild.build.futures import Abandoned
from asyncbuild.cache.results import CacheLost
from asyncbuild.errors import AsyncbuildError


@contextmanager
def one_error() -> Iterator[None]:
    """Raise the one error that tells what happened, out of all that a nursery raised together."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = _chief(group)
        raise error from error.__cause__


def _chief(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Ours before foreign ones, and whatever else before the news that work was abandoned."""
    leaves = list(_leaves(group))

    def rank(error: BaseException) -> int:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return 0
        if isinstance(error, Abandoned):
            return 3
        if isinstance(error, CacheLost):
            return 0  # the build begins again, whatever else went wrong
        return 1 if isinstance(error, AsyncbuildError) else 2

    return min(leaves, key=rank)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
