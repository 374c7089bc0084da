"""When to ask again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.registry.retry import RetryPolicy, retry_after


@settings(deadline=None)
@given(st.integers(1, 12), st.floats(0, 1, exclude_max=True))
def test_pauses_are_bounded(failures: int, chance: float) -> None:
    """A pause is between half of its ceiling and its ceiling; after the last try there is none."""
    policy = RetryPolicy(attempts=8, base=0.5, longest=4)
    pause = policy.pause(failures, chance)
    if failures >= 8:
        assert pause is None
    else:
        ceiling = min(4, 0.5 * 2 ** (failures - 1))
        assert pause is not None
        assert ceiling / 2 <= pause <= ceiling


def test_wishes() -> None:
    """A short Retry-After is obeyed, and spread; a long one ends the trying."""
    policy = RetryPolicy(attempts=3, base=1, longest_wish=30)
    assert policy.pause(1, 0.5, 10) == 10.5
    assert policy.pause(1, 0, 30) == 30
    assert policy.pause(1, 0, 31) is None
    assert policy.pause(3, 0, 1) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "²"}, None),
        ({"retry-after": "9" * 40}, 999999999),
        (
            {
                "retry-after": "Tue, 03 Nov 2026 10:00:20 GMT",
                "date": "Tue, 03 Nov 2026 10:00:00 GMT",
            },
            20,
        ),
        (
            {
                "retry-after": "Tue, 03 Nov 2026 09:00:00 GMT",
                "date": "Tue, 03 Nov 2026 10:00:00 GMT",
            },
            0,
        ),
        ({"retry-after": "Tue, 03 Nov 2026 10:00:20 GMT"}, None),
        (
            {"retry-after": "Tue, 03 Nov 2026 10:00:20", "date": "Tue, 03 Nov 2026 10:00:00 GMT"},
            None,
        ),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, or a date that counts from the answer's own Date."""
    assert retry_after(headers) == expected
