"""Suggestions for typing errors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.dockerfile.suggest import did_you_mean, edit_distance, nearest

KNOWN = ("COPY", "CMD", "ENV")


def test_nearest() -> None:
    """The nearest name wins; what is far, known, or all different gives none."""
    assert nearest("COYP", KNOWN) == "COPY"
    assert nearest("CMDD", KNOWN) == "CMD"
    assert nearest("COPY", KNOWN) is None
    assert nearest("SOMETHING", KNOWN) is None
    assert nearest("X", ("Y",)) is None
    assert did_you_mean("EMV", KNOWN) == "did you mean ENV?"
    assert did_you_mean("", KNOWN) is None


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_distance_is_a_metric(left: str, right: str) -> None:
    """Zero for equals only, the same both ways, at most the longer length."""
    distance = edit_distance(left, right)
    assert (distance == 0) == (left == right)
    assert distance == edit_distance(right, left)
    assert abs(len(left) - len(right)) <= distance <= max(len(left), len(right))
