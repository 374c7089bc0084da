"""How many layers of a base are fetched at a time, when only some of its files are needed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_FIRST_WAVE = 1 << 20  # bytes: less than what a round trip to a far registry costs


def waves(sizes: Sequence[int]) -> Iterator[int]:
    """How many of the topmost layers to have, wave after wave; each at least doubles the bytes.

    So what is fetched in vain is bounded by what was needed, and the waves are few. All layers are no wave.
    """
    fetched, goal = 0, _FIRST_WAVE
    for count, size in enumerate(sizes[:-1], 1):
        fetched += size
        if fetched >= goal or fetched + sizes[count] > goal:
            yield count
            goal = max(2 * fetched, _FIRST_WAVE)
