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
   owner and mode are the source's (``copyFileInfo``).

Ours: two files at one destination that is no directory are an error, as in the classic builder (there
BuildKit lets the last one win); a directory that exists keeps its time.

The change set has the directories above everything that it adds, unchanged where they exist, as layers
by BuildKit do; never the root.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from asyncbuild.context.sources import CopySource, InlineFile
from asyncbuild.errors import DockerfileError
from asyncbuild.layers.changeset import ChangeSet, Entry, InlineSource, Kind
from asyncbuild.layers.paths import ancestors, clean, join, parent_of, resolve_links

_DIRECTORY_MODE = 0o755
_INLINE_MODE = 0o644


class ModeChange(Protocol):
    """``--chmod`` (`asyncbuild.dockerfile.modes.ModeChange`)."""

    @property
    def octal(self) -> int | None:
        """The mode, if it does not depend on what was there."""

    def apply(self, mode: int, *, is_directory: bool) -> int:
        """The twelve permission bits that ``mode`` becomes."""


class Facts(Protocol):
    """What must be known of the root: a view, or anything else that can look up a path."""

    def lookup(self, path: str, /) -> Entry | None:
        """The entry at ``path``, links not followed."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The destination of one COPY or ADD, and what it does to everything that goes there.

    ``destination`` is absolute; a ``/`` or ``/.`` at its end says that it is a directory. ``owner``
    is (uid, gid). ``made_ns`` is the time of what has none of its own: directories that are made,
    files that the Dockerfile holds.
    """

    destination: str
    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None
    made_ns: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether the text says that the destination is a directory."""
        return self.destination.endswith(("/", "/."))


def place(
    sources: Iterable[CopySource | InlineFile], placement: Placement, root: Facts | None
) -> ChangeSet:
    """What copying ``sources``, in their order, adds to ``root`` (None: nothing is there).

    Without sources nothing changes. `DockerfileError` if they do not fit the destination.
    """
    target = _Target(placement, root)
    for source in sources:
        target.copy(_inline(source, placement) if isinstance(source, InlineFile) else source)
    return target.changes()


def make_directory(placement: Placement, root: Facts | None) -> ChangeSet:
    """What WORKDIR adds: the directory ``placement.destination`` and those above it that are missing.

    Nothing, if it is there. Links are followed inside the root. `DockerfileError` if something else is
    in the way.
    """
    target = _Target(placement, root)
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


class _Target:
    """The root with what was copied so far on top."""

    def __init__(self, placement: Placement, root: Facts | None) -> None:
        self._placement = placement
        self._root = root
        self._added: dict[str, Entry] = {}
        self._links: dict[str, list[str]] = {}
        self._made: set[str] = set()
        self._new: set[str] = set()  # directories that the root does not have
        self._single: str | None = None

    def copy(self, source: CopySource) -> None:
        """Copy one source by the rules at the top of this module."""
        text = clean(self._placement.destination)
        self._make(self._resolve(text if self._placement.is_directory else parent_of(text)))
        destination = self._resolve(text)
        found = self.lookup(destination)
        if source.entries[0].kind is Kind.DIRECTORY:
            self._copy_directory(source, destination, found)
        elif found is not None and found.kind is Kind.DIRECTORY:
            self._add(source.entries, source, join(destination, source.name))
        else:
            self._claim(destination, source)
            self._make(parent_of(destination))
            self._add(source.entries, source, destination)

    def make(self, path: str) -> None:
        """Make the directory that ``path`` leads to."""
        self._make(self._resolve(path))

    def lookup(self, path: str) -> Entry | None:
        """What is at ``path`` now."""
        added = self._added.get(path)
        if added is not None or (path and parent_of(path) in self._new):
            return added
        if self._root is None:
            return None if path else Entry("", Kind.DIRECTORY, _DIRECTORY_MODE)
        return self._root.lookup(path)

    def changes(self) -> ChangeSet:
        """Everything that was added, and the directories above it as they are."""
        above: dict[str, Entry] = {}
        for path in self._added:
            up = parent_of(path)
            while up and up not in self._added and up not in above:
                entry = self.lookup(up)
                assert entry is not None
                above[up] = entry
                up = parent_of(up)
        return ChangeSet.of([*above.values(), *(e for path, e in self._added.items() if path)])

    def _copy_directory(self, source: CopySource, destination: str, found: Entry | None) -> None:
        if found is not None and found.kind is not Kind.DIRECTORY:
            raise self._misfit(destination, f"the directory /{source.path} cannot replace")
        self._make(destination)
        if destination:
            there = self.lookup(destination)
            assert there is not None
            time = source.entries[0].mtime_ns if destination in self._made else there.mtime_ns
            self._added[destination] = replace(there, mtime_ns=time)
        self._add(source.entries[1:], source, destination)

    def _claim(self, destination: str, source: CopySource) -> None:
        """A second file for the same path would replace the first unseen."""
        if self._single is not None:
            raise DockerfileError(
                f"both {self._single} and {source.name} would be copied to /{destination}",
                hint="to copy several files into a directory, end the destination in /",
            )
        self._single = source.name

    def _add(self, entries: Sequence[Entry], source: CopySource, destination: str) -> None:
        owner, change = self._placement.owner, self._placement.mode
        for entry in entries:
            path = join(destination, source.relative(entry.path))
            self._check(path, entry.kind)
            mode = entry.mode
            if change is not None and entry.kind is not Kind.SYMLINK:
                mode = change.apply(mode, is_directory=entry.kind is Kind.DIRECTORY)
            uid, gid = owner if owner is not None else (entry.uid, entry.gid)
            link = entry.link
            if entry.kind is Kind.HARDLINK:
                link = join(destination, source.relative(link))
                self._links.setdefault(link, []).append(path)
            self._added[path] = Entry(
                path,
                entry.kind,
                mode,
                uid,
                gid,
                entry.mtime_ns,
                entry.size,
                link,
                entry.device,
                entry.xattrs,
                entry.source,
            )

    def _check(self, path: str, kind: Kind) -> None:
        """Whether a thing of this kind can be put at ``path``."""
        old = self.lookup(path)
        if old is None:
            if kind is Kind.DIRECTORY:
                self._new.add(path)
            return
        if (old.kind is Kind.DIRECTORY) != (kind is Kind.DIRECTORY):
            what = "a directory" if kind is Kind.DIRECTORY else "a file"
            raise self._misfit(path, f"{what} cannot replace")
        if path in self._links:
            self._unlink(path)

    def _unlink(self, path: str) -> None:
        """A file that others are hardlinks to is replaced: the first of them becomes the file."""
        names = [name for name in self._links.pop(path) if self._added[name].link == path]
        if not names:
            return
        heir, *others = names
        self._added[heir] = replace(self._added[path], path=heir)
        for name in others:
            self._added[name] = replace(self._added[name], link=heir)
        if others:
            self._links[heir] = others

    def _make(self, path: str) -> None:
        """Make the directory ``path`` and those above it where they are missing."""
        for directory in [*ancestors(path), path]:
            found = self.lookup(directory)
            if found is None:
                self._added[directory] = self._directory(directory)
                self._made.add(directory)
                self._new.add(directory)
            elif found.kind is not Kind.DIRECTORY:
                raise self._misfit(directory, "a directory is needed in place of")

    def _directory(self, path: str) -> Entry:
        uid, gid = self._placement.owner or (0, 0)
        mode = _DIRECTORY_MODE
        if self._placement.mode is not None and self._placement.mode.octal is not None:
            mode = self._placement.mode.octal
        return Entry(path, Kind.DIRECTORY, mode, uid, gid, self._placement.made_ns)

    def _misfit(self, path: str, problem: str) -> DockerfileError:
        found = self.lookup(path)
        what = found.kind.name.lower().replace("_", " ") if found is not None else "nothing"
        hint = None
        if found is not None and found.kind is Kind.SYMLINK:
            hint = f"/{path} is a link to {found.link}: copy to {found.link} instead"
        return DockerfileError(f"COPY: {problem} the {what} /{path}", hint=hint)

    def _resolve(self, path: str) -> str:
        return resolve_links(self._read_link, path)

    def _read_link(self, path: str) -> str | None:
        entry = self.lookup(path)
        return entry.link if entry is not None and entry.kind is Kind.SYMLINK else None
