"""What the bench takes for the limit of a job over a link."""

from __future__ import annotations

import pytest
from perf.bases import BaseLayer
from perf.farsite import Link
from perf.jobs import JOBS
from perf.limits import limit

_MIB = 1 << 20
#: J7 pulls one layer of 500 MB, and pushes as much in one blob.
BASES: dict[str, tuple[BaseLayer, ...]] = {
    "large": (BaseLayer("sha256:1", 500_000_000, 500_000_000, 1),)
}


@pytest.mark.parametrize(
    ("link", "seconds"),
    [
        (Link(0.1, bandwidth=125e6, per_connection=25e6, window=3 * _MIB), 500e6 / 25e6),
        (
            Link(0.2, bandwidth=125e6, per_connection=25e6, window=3 * _MIB),
            500e6 * 0.2 / (3 * _MIB),
        ),
        (Link(0.1, bandwidth=125e6, per_connection=0, window=64 * _MIB), 500e6 / 125e6),
        (Link(0.1, bandwidth=10e6, per_connection=25e6, window=3 * _MIB), 500e6 / 10e6),
        (Link(0.0), 0.0),
    ],
    ids=["connection", "window", "link", "thin link", "near"],
)
def test_one_blob_goes_up_as_fast_as_one_connection(link: Link, seconds: float) -> None:
    """Whichever of link, connection and window is the narrowest decides."""
    assert limit(JOBS["J7"], link, BASES, cores=2).transfer == pytest.approx(seconds)


def test_round_trips_are_those_of_the_job() -> None:
    """J1 is nothing else."""
    found = limit(JOBS["J1"], Link(0.1), {}, cores=2)
    assert found.total == found.chain == pytest.approx(0.5)
