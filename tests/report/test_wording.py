"""Figures as people read them."""

import pytest

from asyncbuild.errors import SourceLocation
from asyncbuild.report.events import Outcome, Statistics
from asyncbuild.report.wording import duration, outcome, place, plural, size, speed, summary


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (5 * 10**9, "5.0 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """Three figures and a unit of ten's powers."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.00s"),
        (0.004, "0.00s"),
        (0.99, "0.99s"),
        (0.999, "1.0s"),
        (59.94, "59.9s"),
        (59.96, "1m 00s"),
        (245, "4m 05s"),
        (3599.6, "1h 00m"),
        (3720, "1h 02m"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """As many figures as matter, and never sixty seconds."""
    assert duration(seconds) == text


def test_small_words() -> None:
    """Plurals, speeds, places, outcomes."""
    assert (plural(1, "layer"), plural(0, "layer")) == ("1 layer", "0 layers")
    assert speed(10_000_000, 2) == " (5.0 MB/s)"
    assert speed(10, 0.001) == ""
    assert place(SourceLocation("Dockerfile", 3, 4)) == "Dockerfile:3: "
    assert place(None) == ""
    assert [outcome(how, 1) for how in Outcome] == [
        "done in 1.0s",
        "cached",
        "skipped",
        "FAILED after 1.0s",
    ]


def test_summary() -> None:
    """The last line names what happened to layers, if anything did."""
    assert summary(Statistics()) == "in 0.00s: received 0 B, sent 0 B, 0 requests"
    assert summary(Statistics(2, 1000, 2000, 1, 1, 2, 3, 4)) == (
        "in 2.0s: received 1.0 kB, sent 2.0 kB, 1 request; "
        "layers: 1 pulled, 2 pushed, 3 mounted, 4 already there"
    )
