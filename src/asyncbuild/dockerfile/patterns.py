r"""The patterns of ``${x#p}``, ``${x%p}`` and ``${x/p/t}``: ``*``, ``?`` and characters. Pure.

BuildKit makes a regular expression of each (shell/lex.go ``convertShellPatternToRegex``), whose engine is
linear; Python's is not. So a pattern is matched here as what it is, runs of characters with stars between:

1. Neither ``*`` nor ``?`` matches a line feed (Go's ``.``). ``\*``, ``\?`` and ``\\`` are characters.
   A backslash in front of ``}`` or ``/`` is there for the substitution's sake, and no part of the pattern.
2. Of all matches from one place the shortest has each run as early as it can be; the longest has all but
   the last so, and the last as late as it can be. A run with a line feed stands where the line ends.
3. If there is no match from one place, there is none from a later one in the same line.

So each line is looked at once for each run. What that cannot bound is how often a run with ``?`` almost
matches: steps are counted, and too many of them are an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from asyncbuild.records import dataclass, field

MOST_STEPS = 1 << 26
"""Characters that one pattern may look at: 64 times through a value of a MiB."""


class TooManySteps(ValueError):
    """A pattern that would take too long."""


@dataclass(slots=True)
class Steps:
    """How many characters were looked at."""

    count: int = 0

    def spend(self, count: int) -> None:
        """Count them. Raises `TooManySteps`."""
        self.count += count
        if self.count > MOST_STEPS:
            raise TooManySteps(f"its pattern takes more than {MOST_STEPS} steps on this value")


@dataclass(frozen=True, slots=True)
class Run:
    """Characters in a row; None is any one but a line feed."""

    characters: tuple[str | None, ...]
    anchor: str = field(init=False)
    offset: int = field(init=False)
    expression: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        """Its longest piece without ``?``, which begins at ``offset``, finds the places to compare at."""
        pieces = "".join("\0" if c is None else "\1" for c in self.characters).split("\0")
        longest = max(range(len(pieces)), key=lambda n: len(pieces[n]))
        offset = sum(len(piece) + 1 for piece in pieces[:longest])
        known = self.characters[offset : offset + len(pieces[longest])]
        object.__setattr__(self, "anchor", "".join(c for c in known if c is not None))
        object.__setattr__(self, "offset", offset)
        text = "".join("." if c is None else re.escape(c) for c in self.characters)
        object.__setattr__(self, "expression", re.compile(text))

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def line_feed(self) -> int | None:
        """Where its first line feed is."""
        return self.characters.index("\n") if "\n" in self.characters else None

    def reversed(self) -> Run:
        """It, read from its end."""
        return Run(self.characters[::-1])

    def is_at(self, value: str, place: int, steps: Steps) -> bool:
        """Whether it stands at ``place``."""
        steps.spend(len(self) + 1)
        return self.expression.match(value, place) is not None

    def first(self, value: str, low: int, high: int, steps: Steps) -> int | None:
        """The first place in ``value[low:high]`` where all of it stands."""
        while low + len(self) <= high:
            end = high - len(self) + self.offset + len(self.anchor)
            found = value.find(self.anchor, low + self.offset, end)
            steps.spend((end if found < 0 else found) - low + len(self.anchor))
            if found < 0:
                return None
            low = found - self.offset
            if len(self.anchor) == len(self) or self.is_at(value, low, steps):
                return low
            low += 1
        return None

    def last(self, value: str, low: int, high: int, steps: Steps) -> int | None:
        """The last place in ``value[low:high]`` where all of it stands."""
        mirrored = value[low:high][::-1]  # str.find is linear where str.rfind is not
        found = self.reversed().first(mirrored, 0, len(mirrored), steps)
        return None if found is None else high - found - len(self)


@dataclass(frozen=True, slots=True)
class ShellPattern:
    """Runs with a star between each two of them."""

    runs: tuple[Run, ...]

    @classmethod
    def parse(cls, text: str) -> ShellPattern:
        """Read ``text``. Raises ValueError for a backslash that escapes nothing."""
        runs: list[list[str | None]] = [[]]
        characters = iter(enumerate(text))
        for place, character in characters:
            following = text[place + 1 : place + 2]
            if character == "*":
                runs.append([])
            elif character == "?":
                runs[-1].append(None)
            elif character != "\\":
                runs[-1].append(character)
            elif following and following in "*?\\":
                runs[-1].append(following)
                next(characters)
            elif not following or following not in "}/":
                raise ValueError(f"invalid pattern ({text}): \\{following} escapes nothing")
        inner = [run for run in runs[1:-1] if run]  # stars in a row are one
        return cls(tuple(Run(tuple(run)) for run in [runs[0], *inner, *runs[1:][-1:]]))

    @property
    def plain(self) -> str | None:
        """The text that it matches, if it is only one, and not empty."""
        only = self.runs[0]
        return only.anchor if len(self.runs) == 1 and len(only.anchor) == len(only) > 0 else None

    def reversed(self) -> ShellPattern:
        """What matches a text read from its end."""
        return ShellPattern(tuple(run.reversed() for run in self.runs[::-1]))

    def end(self, value: str, steps: Steps, *, longest: bool) -> int | None:
        """Where a match from the beginning of ``value`` ends; None if there is none."""
        if not self.runs[0].is_at(value, 0, steps):
            return None
        return self._end(value, len(self.runs[0]), steps, longest=longest)

    def matches(self, value: str, steps: Steps) -> Iterator[tuple[int, int]]:
        """The longest match at the first place that has one, the one behind it, and so on (Go's
        ``ReplaceAllString``): an empty match right behind another one does not count.
        """
        place, last_end = 0, -1
        while (start := self.runs[0].first(value, place, len(value), steps)) is not None:
            here = start + len(self.runs[0])
            end = self._end(value, here, steps, longest=True)
            if end is None:
                # rule 3: the first run has to end in another line
                place = max(start, _line_end(value, here, steps) - len(self.runs[0])) + 1
                continue
            if end > start or end != last_end:
                yield start, end
                last_end = end
            place = end if end > start else end + 1

    def _end(self, value: str, here: int, steps: Steps, *, longest: bool) -> int | None:
        """Where the match ends whose first run ends ``here``."""
        rest: Sequence[Run] = self.runs[1:]
        for number, run in enumerate(rest, 1):
            line_end = _line_end(value, here, steps)
            place: int | None
            if run.line_feed is not None:
                place = line_end - run.line_feed
                if place < here or not run.is_at(value, place, steps):
                    return None
            elif longest and number == len(rest):
                place = run.last(value, here, line_end, steps)
            else:
                place = run.first(value, here, line_end, steps)
            if place is None:
                return None
            here = place + len(run)
        return here


def _line_end(value: str, place: int, steps: Steps) -> int:
    found = value.find("\n", place)
    found = len(value) if found < 0 else found
    steps.spend(found - place + 1)
    return found
