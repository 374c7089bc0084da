"""What a layer leaves out or rounds down of the changes that it holds. Pure.

1. ``ignored`` paths and everything below them are in no layer (kaniko's ``--ignore-path``); later steps of
   the build still see them.
2. What is in an ``emptied`` directory is in no layer, the directory itself is (a VOLUME in kaniko).
3. Nothing is younger than ``newest`` (BuildKit's ``rewrite-timestamp``): equal content packs to equal bytes
   whenever it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

from asyncbuild.layers.changeset import ChangeSet, Entry
from asyncbuild.layers.members import FileRun, Found, Hidden, Survey
from asyncbuild.layers.paths import ancestors, clean
from asyncbuild.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class Trim:
    """``newest`` is in nanoseconds since the epoch, None for no limit; ``ignored`` and ``emptied`` are
    clean paths.
    """

    newest: int | None = None
    ignored: frozenset[str] = frozenset()
    emptied: frozenset[str] = frozenset()

    @classmethod
    def of(cls, ignored: Iterable[str], newest: int | None) -> Self:
        """From paths as people write them, absolute or not, and a time in seconds."""
        paths = frozenset(clean(path) for path in ignored) - {""}
        return cls(None if newest is None else newest * 10**9, paths)

    def __call__(self, changes: ChangeSet) -> ChangeSet:
        """``changes`` without what is ignored, and not younger than allowed."""
        if self == Trim():
            return changes
        return ChangeSet(
            tuple(self._clamped(item) for item in changes.additions if self._keeps(item.path)),
            tuple(path for path in changes.deletions if self._keeps(path)),
            tuple(path for path in changes.opaque if self._keeps(path)),
        )

    def surveyed(self, survey: Survey) -> Survey:
        """The same of what nobody has looked at."""
        if self == Trim():
            return survey
        return Survey(tuple(self._found(survey.found)))

    def _found(self, found: Iterable[Found]) -> Iterator[Found]:
        for item in found:
            if isinstance(item, FileRun):
                names = tuple(name for name in item.names if self._keeps(item.prefix + name))
                if names:
                    yield replace(item, names=names, newest=self.newest)
            elif self._keeps(item.path):
                yield item if isinstance(item, Hidden) else self._clamped(item)

    def _keeps(self, path: str) -> bool:
        above = ancestors(path) if self.ignored or self.emptied else ()
        return self.ignored.isdisjoint((path, *above)) and self.emptied.isdisjoint(above)

    def _clamped(self, entry: Entry) -> Entry:
        if self.newest is None or entry.mtime_ns <= self.newest:
            return entry
        return replace(entry, mtime_ns=self.newest)
