"""Did you mean …? The nearest known name, as BuildKit finds it: an edit distance below three."""

from __future__ import annotations

from collections.abc import Iterable

_TOO_FAR = 3


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The first of the nearest ``known`` names, or None if none is near or ``name`` is one of them.

    A name of one or two letters is near to too much: at least one letter must agree.
    """
    best: str | None = None
    limit = min(_TOO_FAR, len(name))
    for candidate in known:
        if candidate == name:
            return None
        if abs(len(candidate) - len(name)) >= limit:
            continue
        distance = edit_distance(name, candidate)
        if distance < limit:
            best, limit = candidate, distance
    return best


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint for an error about ``name``, or None if nothing known is near."""
    best = nearest(name, known)
    return f"did you mean {best}?" if best else None


def edit_distance(left: str, right: str) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions of one character."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
            diagonal, row[j] = row[j], cost
    return row[-1]
