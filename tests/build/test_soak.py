"""A short soak: builds on one store, one after another and at once, with faults at random."""

from __future__ import annotations

import pytest

from support.builds import Belongings
from support.soak import soak


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_and_nothing_grows(seed: int) -> None:
    """Twenty builds, half of them four at a time: the right image or an error of ours each time, and in
    the end as many mounts, processes, descriptors, blobs and layers as after the first few.
    """
    before = Belongings.now()
    found = soak(builds=10, at_once=4, seed=seed, probability=0.1)
    assert found.wrong == []
    assert found.done == 20
    assert found.outcomes["done"] > 10
    assert sum(found.struck.values()) > 10
    assert Belongings.now().more_than(before) == []
    first, last = found.holdings[0], found.holdings[-1]
    kept = ("descriptors", "mounts", "processes", "blobs", "layers", "works")
    assert [getattr(last, name) for name in kept] == [getattr(first, name) for name in kept]
