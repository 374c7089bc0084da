"""Durations, sizes and booleans, as Go reads and prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.dockerfile.quantities import (
    format_duration,
    parse_boolean,
    parse_duration,
    parse_size,
)
from asyncbuild.dockerfile.source import Problem

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("30s", 30 * SECOND),
        ("1m30s", 90 * SECOND),
        ("1.5h", 5400 * SECOND),
        (".5s", SECOND // 2),
        ("1.s", SECOND),
        ("500ms", SECOND // 2),
        ("3us2ns", 3002),
        ("7µs", 7000),
        ("-2s", -2 * SECOND),
        ("+2s", 2 * SECOND),
    ],
)
def test_durations(text: str, expected: int) -> None:
    """Numbers with units add up, in nanoseconds."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "-", "10", "s", ".s", "1d", "1s ", "1s2", "9999999h"])
def test_wrong_durations(text: str) -> None:
    """A number without a unit, a unit without a number, or too much of them is refused."""
    with pytest.raises(Problem, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (2_000_000, "2ms"),
        (2_000_001, "2.000001ms"),
        (30 * SECOND, "30s"),
        (SECOND + SECOND // 2, "1.5s"),
        (90 * SECOND, "1m30s"),
        (3600 * SECOND, "1h0m0s"),
        (3661 * SECOND + 1, "1h1m1.000000001s"),
        (-90 * SECOND, "-1m30s"),
    ],
)
def test_formatted_durations(nanoseconds: int, expected: str) -> None:
    """Printed in Go's way: the history has it so."""
    assert format_duration(nanoseconds) == expected


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_durations_round_trip(nanoseconds: int) -> None:
    """What is printed is read back."""
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1024", 1024),
        ("64m", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("2 kb", 2048),
        ("7B", 7),
        ("1T", 1 << 40),
        ("1.m", 1 << 20),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    """Suffixes are powers of 1024, whatever their spelling."""
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "m", ".", "-1", "1x", "1mm", "1e3", "1 2"])
def test_wrong_sizes(text: str) -> None:
    """Anything else is no size."""
    with pytest.raises(Problem, match="not a size"):
        parse_size(text)


def test_booleans() -> None:
    """The words that Go's ParseBool knows, and no others."""
    assert parse_boolean("1")
    assert parse_boolean("True")
    assert not parse_boolean("f")
    with pytest.raises(Problem, match="neither true nor false"):
        parse_boolean("yes")
