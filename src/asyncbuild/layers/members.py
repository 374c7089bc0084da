"""What stands in a layer, in its tar's order: entries, marks of what is hidden, files nobody looked at.

A snapshot knows of most new files nothing but their names: that they are files, new, and of one name each.
They stay so until they are packed, where one open, one look and one read are all that each of them costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import ChangeSet, Entry, Kind, path_order
from asyncbuild.records import dataclass, replace

WHITEOUT_PREFIX: Final = ".wh."
OPAQUE_MARKER: Final = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class FileRun:
    """Regular files of one directory that stand one behind the other, sorted by name.

    ``prefix`` is what their paths begin with, "" or one that ends in a slash; they are at that path below
    ``root``. No two files of a layer's runs are one inode. In the layer none is younger than ``newest``
    (nanoseconds since the epoch).
    """

    root: str
    prefix: str
    names: tuple[str, ...]
    newest: int | None = None


@dataclass(frozen=True, slots=True)
class Hidden:
    """What lies below is hidden: the name ``path``, or all that is in the directory of that path."""

    path: str
    opaque: bool = False


Member = Entry | FileRun
Found = Entry | FileRun | Hidden


@dataclass(frozen=True, slots=True)
class Survey:
    """What a step changed, in a layer's order; `asyncbuild.layers.snapshot.survey` makes it."""

    found: tuple[Found, ...]


def members_of(changes: ChangeSet | Survey) -> Iterator[Member]:
    """What the tar holds, markers among them, in the tar's order.

    `InputError` for a name that a layer cannot hold.
    """
    if isinstance(changes, ChangeSet):
        yield from _members(changes)
        return
    for found in changes.found:
        if isinstance(found, Hidden):
            yield _opaque_marker(found.path) if found.opaque else _marker(found.path)
        elif isinstance(found, FileRun):
            yield _allowed_run(found)
        elif found.path:
            yield _allowed(found)


def cut(members: Iterable[Member], most: int) -> Iterator[list[Member]]:
    """``members`` in pieces of ``most`` names; runs are cut where they do not fit."""
    piece: list[Member] = []
    left = most
    for member in members:
        for part in _parts(member, left, most):
            piece.append(part)
            left -= weight((part,))
            if not left:
                yield piece
                piece, left = [], most
    if piece:
        yield piece


def weight(members: Sequence[Member]) -> int:
    """How many names there are."""
    return sum(len(member.names) if isinstance(member, FileRun) else 1 for member in members)


def _parts(member: Member, first: int, most: int) -> Iterator[Member]:
    if not isinstance(member, FileRun) or len(member.names) <= first:
        yield member
        return
    begin, end = 0, first
    while begin < len(member.names):
        yield replace(member, names=member.names[begin:end])
        begin, end = end, end + most


def _members(changes: ChangeSet) -> Iterator[Entry]:
    additions = (_allowed(entry) for entry in changes.additions if entry.path)
    if not changes.deletions and not changes.opaque:
        yield from additions
        return
    marked = [(path_order(path), 0, _marker(path)) for path in changes.deletions]
    marked += [(path_order(entry.path), 1, entry) for entry in additions]
    # ["d"] < ["d", "x"]: the third rank stands behind d itself and before everything in it
    marked += [
        (path_order(path) if path else [], 2, _opaque_marker(path)) for path in changes.opaque
    ]
    marked.sort(key=lambda member: member[:2])
    yield from (entry for _, _, entry in marked)


def _allowed(entry: Entry) -> Entry:
    if WHITEOUT_PREFIX in entry.path and f"/{WHITEOUT_PREFIX}" in f"/{entry.path}":
        raise _no_name(entry.path)
    return entry


def _allowed_run(run: FileRun) -> FileRun:
    """Its directories are entries, and have been looked at."""
    at = bisect_left(run.names, WHITEOUT_PREFIX)
    if at < len(run.names) and run.names[at].startswith(WHITEOUT_PREFIX):
        raise _no_name(run.prefix + run.names[at])
    return run


def _no_name(path: str) -> InputError:
    return InputError(
        f"/{path}: an image cannot hold names that begin with {WHITEOUT_PREFIX}",
        hint="in a layer they say that something is deleted (OCI image specification)",
    )


def _marker(path: str) -> Entry:
    head, slash, name = path.rpartition("/")
    return Entry(f"{head}{slash}{WHITEOUT_PREFIX}{name}", Kind.FILE, 0)


def _opaque_marker(directory: str) -> Entry:
    return Entry(f"{directory}/{OPAQUE_MARKER}" if directory else OPAQUE_MARKER, Kind.FILE, 0)
