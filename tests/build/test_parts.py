"""The parts of a large blob: all of it once, small ones first, and what is there without a gap."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.build.parts import FIRST_PART, PART, Parts


def taken(parts: Parts) -> list[int]:
    """All that there are."""
    found = []
    while (part := parts.take()) is not None:
        found.append(part)
    return found


@given(total=st.integers(1, 40 * PART), first=st.sampled_from([FIRST_PART, PART]))
def test_they_are_the_whole_blob_in_order(total: int, first: int) -> None:
    """Without a gap and without a byte twice; growing, then shrinking, none smaller than it may be."""
    parts = Parts(total, first)
    spans = [parts.missing(part) for part in taken(parts)]
    assert spans[0][0] == 0
    assert spans[-1][1] == total
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    sizes = [end - start for start, end in spans]
    assert sizes == [parts.size(part) for part in range(len(parts))]
    top = sizes.index(max(sizes))
    assert sizes[:top] == sorted(sizes[:top])
    assert sizes[top:] == sorted(sizes[top:], reverse=True)
    assert max(sizes) <= PART
    assert all(size >= first for size in sizes[:-1])


def test_small_at_first_where_that_gains_something() -> None:
    """Half a gigabyte far away: three MiB at first and at last, eight between. Near: eight always."""
    far, near = Parts(500_000_000), Parts(500_000_000, PART)
    assert far.size(0) == 3 << 20
    assert max(far.size(part) for part in range(len(far))) == 8 << 20
    assert far.size(len(far) - 2) == 3 << 20
    assert len(far) == 88
    assert {near.size(part) for part in range(len(near) - 1)} == {8 << 20}
    assert len(near) == 60


@given(total=st.integers(1, 5 * PART), data=st.data())
def test_what_is_there_without_a_gap(total: int, data: st.DataObject) -> None:
    """However parts grow, the size counts exactly the bytes before the first gap."""
    parts = Parts(total)
    all_parts = taken(parts)
    spans = [parts.missing(part) for part in all_parts]
    known = dict.fromkeys(all_parts, 0)
    for _ in range(data.draw(st.integers(1, 12))):
        part = data.draw(st.sampled_from(all_parts))
        start, end = spans[part]
        count = data.draw(st.integers(0, end - start - known[part]))
        known[part] += count
        size = parts.add(part, count)
        expected = 0
        for each in all_parts:
            expected += known[each]
            if known[each] < spans[each][1] - spans[each][0]:
                break
        assert size == expected
        assert parts.arrived == sum(known.values())
        assert parts.complete == (parts.arrived == total)
        assert parts.missing(part) == (start + known[part], end)


def test_a_part_that_is_given_back_is_the_next_one() -> None:
    """What is missing of it, and the first of several before the rest."""
    parts = Parts(3 * PART, PART)
    assert [parts.take(), parts.take()] == [0, 1]
    parts.add(0, 1000)
    parts.give_back(1)
    parts.give_back(0)
    assert parts.take() == 0
    assert parts.missing(0) == (1000, PART)
    assert taken(parts) == [1, 2]
