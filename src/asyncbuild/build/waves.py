"""How many layers are fetched at a time, from the topmost down, when only some files are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asyncbuild.layers.changeset import Kind
from asyncbuild.rootfs.view import View

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


def is_pattern(path: str) -> bool:
    """Whether ``path`` may name several things, or another thing than it says: no few layers decide it."""
    return any(mark in path for mark in "*?[\\")


def decided(view: View, paths: tuple[str, ...]) -> bool | None:
    """Whether every path is a file in ``view``: the topmost layers that have it say all about it.

    None if no further layer will change the answer "no" but the lowest one: a directory may go on there.
    Blocks.
    """
    found = [view.lookup(view.resolve(path)) for path in paths]
    if any(entry is not None and entry.kind is Kind.DIRECTORY for entry in found):
        return None
    return all(entry is not None and entry.kind is Kind.FILE for entry in found)
