"""What ``--exclude`` and ``--parents`` leave of the sources of COPY and ADD. Pure rules over a tree.

They are BuildKit's (fsutil ``copy/copy.go``, ``IncludePatterns`` and ``ExcludePatterns``; dockerfile2llb
``dispatchCopy``):

1. Patterns have the syntax of .dockerignore, and are seen from each source directory: ``*.o`` is only what
   stands directly in it, ``**/*.o`` everything. The directory itself is never excluded.
2. With ``--parents`` the source is cut at its first ``/./``: what stands before is the directory whose
   content is copied (the root, if there is no such cut), what stands behind is a pattern for what is
   wanted of it, in which ``**`` is any number of directories and links are not followed.
3. Directories that only lead to what is wanted (`CopySource.passing`) are made as they are in the source;
   where they exist already they keep their owner and time, and get the mode.
4. A source with ``--parents`` and no wildcards must exist.

Ours, where the reference documents it and BuildKit does not do it yet (moby/buildkit#5489): a file that
is itself a source is excluded by its name. And ``--parents .`` is everything, not nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from asyncbuild.context.sources import CopySource, Explain, SourceTree, find_sources, not_found
from asyncbuild.dockerfile.ignore import IgnorePatterns, InvalidPattern
from asyncbuild.errors import DockerfileError
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.paths import ancestors, clean, has_wildcards, join, unescape
from asyncbuild.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class Selection:
    """The flags of one COPY or ADD that say which files are meant."""

    excludes: tuple[str, ...] = ()
    parents: bool = False

    def find(
        self, tree: SourceTree, pattern: str, *, explain: Explain | None = None
    ) -> tuple[CopySource, ...]:
        """What ``pattern`` names in ``tree``; see `find_sources`.

        `SourceNotFound` for what is not there, `DockerfileError` for a pattern that is none. Reads
        directories: call it in a thread.
        """
        excluded = _compile("--exclude", self.excludes)
        if self.parents:
            return _with_parents(tree, pattern, excluded, explain)
        found = find_sources(tree, pattern, explain=explain)
        if not excluded:
            return found
        return tuple(left for source in found if (left := _without(source, excluded)) is not None)


def _compile(flag: str, patterns: Iterable[str]) -> IgnorePatterns:
    try:
        return IgnorePatterns(patterns)
    except InvalidPattern as error:
        raise DockerfileError(f"{flag}: {error}") from None


def _without(source: CopySource, excluded: IgnorePatterns) -> CopySource | None:
    """What is left of ``source``; None if it is a file that is excluded."""
    top = source.entries[0]
    if top.kind is not Kind.DIRECTORY:
        return None if excluded.excluded(source.name) else source
    wanted = _selected(source, source.entries[1:], lambda path: not excluded.excluded(path))
    return replace(source, entries=(top, *wanted.entries), passing=wanted.passing)


def _with_parents(
    tree: SourceTree, text: str, excluded: IgnorePatterns, explain: Explain | None
) -> tuple[CopySource, ...]:
    pivot, cut, pattern = text.partition("/./")
    if not cut:
        pivot, pattern = "", text
    pattern = clean(pattern)
    included = _compile("--parents", [pattern])

    def wanted(path: str) -> bool:
        return (not pattern or included.excluded(path)) and not excluded.excluded(path)

    found = []
    for source in _pivots(tree, pivot, explain):
        chosen = _selected(source, _candidates(tree, source.path, pattern), wanted)
        found.append(
            replace(source, entries=(*source.entries, *chosen.entries), passing=chosen.passing)
        )
    exact = not has_wildcards(pivot) and not has_wildcards(pattern)
    if exact and not any(len(source.entries) > len(source.passing) + 1 for source in found):
        raise not_found(tree, join(clean(pivot), unescape(pattern)), explain)
    return tuple(found)


def _pivots(tree: SourceTree, pivot: str, explain: Explain | None) -> Iterator[CopySource]:
    """The directories before the cut, each without what is in it."""
    for source in find_sources(tree, pivot or "/", explain=explain, shallow=True):
        if source.entries[0].kind is Kind.DIRECTORY:
            yield source


def _candidates(tree: SourceTree, top: str, pattern: str) -> Iterator[Entry]:
    """What may match ``pattern`` below the directory ``top``, and the directories on the way there.

    Only what lies below the part of the pattern that has no wildcards is walked.
    """
    parts = pattern.split("/") if pattern else []
    first = next((n for n, part in enumerate(parts) if has_wildcards(part)), len(parts))
    start = unescape("/".join(parts[:first]))
    for path in ["" if not start else join(top, up) for up in ancestors(start)] if start else []:
        entry = tree.lookup(path)
        if entry is None or entry.kind is not Kind.DIRECTORY:
            return
        yield entry
    walked = iter(tree.walk(join(top, start), hardlinks=True))
    if not start:
        next(walked, None)  # the top itself
    yield from walked


@dataclass(frozen=True, slots=True)
class _Selected:
    entries: tuple[Entry, ...]
    passing: frozenset[str]


def _selected(
    source: CopySource, entries: Iterable[Entry], wanted: Callable[[str], bool]
) -> _Selected:
    """Those of ``entries`` (parents first) that are wanted, and the directories above them."""
    chosen: list[Entry] = []
    passing: set[str] = set()
    waiting: list[Entry] = []
    links = _Hardlinks()
    for entry in entries:
        while waiting and not entry.path.startswith(f"{waiting[-1].path}/"):
            waiting.pop()
        if not wanted(source.relative(entry.path)):
            if entry.kind is Kind.DIRECTORY:
                waiting.append(entry)
            else:
                links.drop(entry)
            continue
        passing.update(directory.path for directory in waiting)
        chosen += (*waiting, links.keep(entry))
        waiting.clear()
    return _Selected(tuple(chosen), frozenset(passing))


class _Hardlinks:
    """The second name of a file becomes the file when the first one is left out."""

    def __init__(self) -> None:
        self._dropped: dict[str, Entry] = {}
        self._heirs: dict[str, str] = {}

    def drop(self, entry: Entry) -> None:
        """``entry`` is left out."""
        if entry.kind is Kind.FILE:
            self._dropped[entry.path] = entry

    def keep(self, entry: Entry) -> Entry:
        """``entry`` as it is to be copied."""
        if entry.kind is not Kind.HARDLINK or entry.link not in self._dropped:
            return entry
        heir = self._heirs.setdefault(entry.link, entry.path)
        if heir == entry.path:
            return replace(self._dropped[entry.link], path=entry.path)
        return replace(entry, link=heir)
