"""The beginning of a layer that is on its way: what can be told of a name before the rest is here.

Docker, BuildKit, containerd and GNU tar (``--sort=name``, as Debian's images are made) write the names of a
layer in their order. So when the first name at the root that is greater than ``srv`` has come, all of
``/srv`` has. That is likely, not certain (nothing in the image specification orders a layer), and the bytes
are not verified yet: it is good for what is checked later. Of a layer whose order is seen to be another one
nothing is told until it is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from asyncbuild.errors import LayerError
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.compression import inflate
from asyncbuild.layers.members import OPAQUE_MARKER, WHITEOUT_PREFIX
from asyncbuild.layers.paths import join
from asyncbuild.layers.reader import TarReader
from asyncbuild.records import dataclass

MOST_BYTES: Final = 4 << 20
"""Of the blob that are looked at."""
_MOST_INFLATED: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the first bytes of a layer hold: its entries (the last one of each path), what it hides, and
    how far it has come: ``last`` is the first component of the name it had come to. ``whole``: it is all.
    """

    entries: Mapping[str, Entry]
    hidden: frozenset[str]
    opaque: frozenset[str]
    last: str
    whole: bool

    def tells(self, name: str) -> bool:
        """Whether everything at and below ``name``, which stands at the root, is likely to be in it."""
        return self.whole or name < self.last


class _Cut(Exception):
    """The bytes that are here end."""


def read_beginning(chunks: Iterable[bytes], name: str, *, whole: bool) -> Beginning:
    """Read the first bytes of a blob, ``whole`` if these are all, until all of ``name`` is likely to have
    come. What is damaged or hostile tells nothing. Blocks.
    """
    found = _Found()
    try:
        for entry in TarReader(_limited(inflate(_cut(chunks, whole=whole)))):
            found.add(entry)
            if found.is_beyond(name):
                whole = False
                break
    except _Cut:
        whole = False
    except LayerError:
        return _Found().told(whole=False)
    return found.told(whole=whole)


class _Found:
    """What was read so far."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._hidden: set[str] = set()
        self._opaque: set[str] = set()
        self._last = ""
        self._ordered = True

    def add(self, entry: Entry) -> None:
        """One more entry. A whiteout's place in the order is not the same for all builders."""
        head, _, base = entry.path.rpartition("/")
        if base == OPAQUE_MARKER:
            self._opaque.add(head)
            return
        if base.startswith(WHITEOUT_PREFIX):
            self._hidden.add(join(head, base[len(WHITEOUT_PREFIX) :]))
            return
        first = entry.path.partition("/")[0]
        self._ordered = self._ordered and first >= self._last
        self._last = max(first, self._last)
        old = self._entries.get(entry.path)
        if entry.kind is Kind.DIRECTORY and old is not None and old.kind is not entry.kind:
            self._opaque.add(entry.path)
        self._entries[entry.path] = entry

    def is_beyond(self, name: str) -> bool:
        """Whether names that come after all of ``name`` have come, in their order."""
        return self._ordered and self._last > name

    def told(self, *, whole: bool) -> Beginning:
        """All of it."""
        last = self._last if self._ordered else ""
        hidden, opaque = frozenset(self._hidden), frozenset(self._opaque)
        return Beginning(self._entries, hidden, opaque, last, whole)


def _cut(chunks: Iterable[bytes], *, whole: bool) -> Iterator[bytes]:
    yield from chunks
    if not whole:
        raise _Cut


def _limited(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """No more than a little of what may be a bomb."""
    size = 0
    for block in blocks:
        size += len(block)
        if size > _MOST_INFLATED:
            raise _Cut
        yield block
