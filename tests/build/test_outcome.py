"""One error out of many."""

from __future__ import annotations

import pytest

from asyncbuild.build.futures import Abandoned
from asyncbuild.build.outcome import one_error
from asyncbuild.errors import AsyncbuildError, RunFailed


def raised(*errors: BaseException) -> BaseException:
    """What `one_error` makes of a group of these."""
    with pytest.raises(BaseException) as caught, one_error():
        raise BaseExceptionGroup("a nursery's", errors)
    return caught.value


def test_ours_before_foreign_ones() -> None:
    """A person reads the error that was written for people, however deep it lies."""
    ours = AsyncbuildError("ours")
    inner = BaseExceptionGroup("inner", [ValueError("a fault"), ours])
    assert raised(Abandoned("x"), KeyError("y"), inner) is ours


def test_an_interruption_comes_first() -> None:
    """Whoever pressed Ctrl-C is told so."""
    assert isinstance(raised(AsyncbuildError("x"), KeyboardInterrupt()), KeyboardInterrupt)


def test_abandoned_work_comes_last() -> None:
    """That work was given up is a consequence, and told only if nothing else is known."""
    assert isinstance(raised(Abandoned("x"), ValueError("y")), ValueError)
    assert isinstance(raised(Abandoned("x"), Abandoned("y")), Abandoned)


def test_the_first_of_two() -> None:
    """Of two failures the one that the nursery saw first."""
    first, second = RunFailed("first", code=3), RunFailed("second", code=4)
    assert raised(first, second) is first


def test_a_cause_is_kept() -> None:
    """The error's own cause is not replaced by the group."""
    cause = OSError("why")
    error = AsyncbuildError("what")
    error.__cause__ = cause
    assert raised(error).__cause__ is cause


def test_single_errors_pass() -> None:
    """What is no group is not touched."""
    with pytest.raises(AsyncbuildError, match="alone"), one_error():
        raise AsyncbuildError("alone")
