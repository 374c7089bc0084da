"""Where COPY and ADD put things: pure rules, from sources and a view of the root to a change set.

They are BuildKit's (solver/llbsolver/file/backend.go ``docopy``; fsutil/copy/copy.go):

1. A destination that ends in ``/`` or ``/.`` is a directory; it and every missing parent are made:
   0755, or the octal ``--chmod``; owned by ``--chown``, or else 0:0 (``MkdirAll``).
2. The destination is resolved inside the root, its last component too (``fs.RootPath``).
3. A directory's content is copied, not itself (``CopyDirContents``). A destination that exists keeps
   its attributes; one that does not is made by rule 1, with the source's time.
4. A file goes into a destination that is a directory, under its own name, and else to that very path
   (``prepareTargetDir``).
5. Below the destination links are not followed: a file replaces whatever is no directory, a
   directory merges with a directory and gives it its attributes. A directory in place of anything
   else, or anything else in place of a directory, is an error (``copyDirectoryOnly``,
   ``ensureEmptyFileTarget``).
6. ``--chown`` is for everything that is copied, ``--chmod`` for everything but links; without them
   owner and mode are the source's (``copyFileInfo``). A directory that is only on the way to what is
   copied gets all this where it is made, and its mode alone where it exists (``createParentDirs``).

Ours: two files at one destination that is no directory are an error, as in the classic builder (there
BuildKit lets the last one win); a directory that exists keeps its time.

The change set has the directories above everything that it adds, unchanged where they exist, as layers
by BuildKit do; never the root.
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncbuild.context.sources import CopySource, InlineFile, UnpackedArchive
from asyncbuild.context.target import Facts, Placement, Target
from asyncbuild.context.unpacking import unpack_into
from asyncbuild.layers.changeset import ChangeSet, Entry, InlineSource, Kind
from asyncbuild.layers.paths import clean

__all__ = ["Facts", "Placement", "make_directory", "place"]

_INLINE_MODE = 0o644


def place(
    sources: Iterable[CopySource | InlineFile | UnpackedArchive],
    placement: Placement,
    root: Facts | None,
) -> ChangeSet:
    """What copying ``sources``, in their order, adds to ``root`` (None: nothing is there).

    Without sources nothing changes. `DockerfileError` if they do not fit the destination.
    """
    target = Target(placement, root)
    for source in sources:
        if isinstance(source, UnpackedArchive):
            unpack_into(target, source)
        else:
            target.copy(_inline(source, placement) if isinstance(source, InlineFile) else source)
    return target.changes()


def make_directory(placement: Placement, root: Facts | None) -> ChangeSet:
    """What WORKDIR adds: the directory ``placement.destination`` and those above it that are missing.

    Nothing, if it is there. Links are followed inside the root. `DockerfileError` if something else is
    in the way.
    """
    target = Target(placement, root)
    target.make(clean(placement.destination))
    return target.changes()


def _inline(file: InlineFile, placement: Placement) -> CopySource:
    entry = Entry(
        file.name,
        Kind.FILE,
        _INLINE_MODE,
        mtime_ns=placement.made_ns,
        size=len(file.data),
        source=InlineSource(file.data),
    )
    return CopySource(file.name, file.name, (entry,))
