"""Change sets: the sorted additions and deletions that one step makes.

Paths are relative to the root, without a leading slash and without ``.`` or ``..`` parts, decoded with
``os.fsdecode`` (surrogateescape). The root itself is ``""``: it may be an addition in a tree that is
read, and is never written to a layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from asyncbuild.records import dataclass, replace


class Kind(Enum):
    """What a name in a file system is; the values are tar's type flags."""

    FILE = "0"
    HARDLINK = "1"
    SYMLINK = "2"
    CHARACTER_DEVICE = "3"
    BLOCK_DEVICE = "4"
    DIRECTORY = "5"
    FIFO = "6"


@dataclass(frozen=True, slots=True)
class FileSource:
    """The bytes of a file on this machine; ``path`` is absolute and is opened without following."""

    path: str


@dataclass(frozen=True, slots=True)
class InlineSource:
    """Bytes that are at hand (a heredoc)."""

    data: bytes


Source = FileSource | InlineSource


@dataclass(frozen=True, slots=True)
class Entry:
    """One name and what it is.

    ``mode`` holds the twelve permission bits. ``size`` (bytes) and ``source`` belong to files.
    ``link`` is a symlink's target as it is, or the path of the file that a hardlink names.
    ``device`` is (major, minor). ``xattrs`` is sorted by name.
    """

    path: str
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    source: Source | None = None

    def moved(self, path: str) -> Entry:
        """The same thing under another name."""
        return replace(self, path=path)


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What a step changes: deletions are applied first, then opaque directories are emptied of what is
    below them, then additions are made. All three are sorted by path components, so that a parent
    stands before its children.
    """

    additions: tuple[Entry, ...] = ()
    deletions: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        additions: Iterable[Entry],
        deletions: Iterable[str] = (),
        opaque: Iterable[str] = (),
    ) -> ChangeSet:
        """Sort; of two additions with one path the later wins."""
        latest = {entry.path: entry for entry in additions}
        return cls(
            tuple(latest[path] for path in sorted(latest, key=path_order)),
            tuple(sorted(set(deletions), key=path_order)),
            tuple(sorted(set(opaque), key=path_order)),
        )

    def __bool__(self) -> bool:
        return bool(self.additions or self.deletions or self.opaque)


def path_order(path: str) -> list[str]:
    """The sort key of paths: by components, so that ``a/b`` stands before ``a-b``."""
    return path.split("/")
