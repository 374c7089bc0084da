"""The root that one COPY or ADD works on: what stands there, and what it adds. Pure.

The rules that are named here are those of `asyncbuild.context.placement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asyncbuild.context.sources import CopySource
from asyncbuild.errors import DockerfileError
from asyncbuild.layers.changeset import ChangeSet, Entry, Kind, path_order
from asyncbuild.layers.paths import ancestors, clean, join, parent_of, resolve_links
from asyncbuild.records import dataclass, replace

_DIRECTORY_MODE = 0o755


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


class Target:
    """The root with what was copied so far on top."""

    def __init__(self, placement: Placement, root: Facts | None) -> None:
        self.placement = placement
        self._root = root
        self._added: dict[str, Entry] = {}
        self._links: dict[str, list[str]] = {}
        self._made: set[str] = set()
        self._new: set[str] = set()  # directories that the root does not have
        self._hidden: set[str] = set()  # directories of the root that something else stands for now
        self._single: str | None = None

    def copy(self, source: CopySource) -> None:
        """Copy one source by the rules at the top of this module."""
        text = clean(self.placement.destination)
        self._make(self.resolve(text if self.placement.is_directory else parent_of(text)))
        destination = self.resolve(text)
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
        self._make(self.resolve(path))

    def lookup(self, path: str) -> Entry | None:
        """What is at ``path`` now."""
        added = self._added.get(path)
        if added is not None or (path and parent_of(path) in self._new):
            return added
        if self._hidden and any(up in self._hidden for up in ancestors(path)):
            return None
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
        added = [entry for path, entry in self._added.items() if path]
        opaque = [path for path in self._hidden if self._added[path].kind is Kind.DIRECTORY]
        return ChangeSet.of([*above.values(), *added], opaque=opaque)

    def put(self, entry: Entry) -> None:
        """Let ``entry`` take the place of whatever stands there, as an archive's content does.

        A directory merges with a directory. The directory above it must be there.
        """
        old = self.lookup(entry.path)
        if old is None or old.kind is not Kind.DIRECTORY:
            if entry.kind is Kind.DIRECTORY:
                self._new.add(entry.path)
            if entry.path in self._links:
                self._unlink(entry.path)
        elif entry.kind is not Kind.DIRECTORY:
            self._hide(entry.path)
        if entry.kind is Kind.HARDLINK:
            self._links.setdefault(entry.link, []).append(entry.path)
        self._added[entry.path] = entry

    def link(self, path: str, entry: Entry) -> None:
        """Put ``entry`` as another name of the file at ``path``, which is as ``entry`` says from now on."""
        self.put(entry)
        others = [name for name in self._links.pop(path, ()) if self._added[name].link == path]
        first, *names = sorted({path, entry.path, *others}, key=path_order)
        self._added[first] = entry.moved(first)
        for name in names:
            linked = replace(entry, kind=Kind.HARDLINK, link=first, size=0, source=None)
            self._added[name] = linked.moved(name)
        self._links[first] = names

    def _hide(self, path: str) -> None:
        """Take away a directory with all that is in it."""
        inside = [added for added in self._added if added.startswith(f"{path}/")]
        for name in reversed(inside):
            if name in self._links:
                self._unlink(name)
            del self._added[name]
            self._new.discard(name)
            self._hidden.discard(name)
        if path not in self._new and self._root is not None and self._root.lookup(path) is not None:
            self._hidden.add(path)
        self._new.discard(path)

    def _copy_directory(self, source: CopySource, destination: str, found: Entry | None) -> None:
        if found is not None and found.kind is not Kind.DIRECTORY:
            raise self.misfit(destination, f"the directory /{source.path} cannot replace")
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
        owner, change = self.placement.owner, self.placement.mode
        for entry in entries:
            path = join(destination, source.relative(entry.path))
            if entry.path in source.passing and self._pass(path, entry.mode):
                continue
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

    def _pass(self, path: str, mode: int) -> bool:
        """Go through an existing directory (rule 6); False if there is none."""
        found = self.lookup(path)
        if found is None or found.kind is not Kind.DIRECTORY:
            return False
        self._added[path] = replace(found, mode=mode)
        return True

    def _check(self, path: str, kind: Kind) -> None:
        """Whether a thing of this kind can be put at ``path``."""
        old = self.lookup(path)
        if old is None:
            if kind is Kind.DIRECTORY:
                self._new.add(path)
            return
        if (old.kind is Kind.DIRECTORY) != (kind is Kind.DIRECTORY):
            what = "a directory" if kind is Kind.DIRECTORY else "a file"
            raise self.misfit(path, f"{what} cannot replace")
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
        self.make_all(path, self._directory(path))

    def make_all(self, path: str, like: Entry) -> None:
        """As `make`, ``path`` being resolved already; what is made has the attributes of ``like``."""
        for directory in [*ancestors(path), path]:
            found = self.lookup(directory)
            if found is None:
                self._added[directory] = like.moved(directory)
                self._made.add(directory)
                self._new.add(directory)
            elif found.kind is not Kind.DIRECTORY:
                raise self.misfit(directory, "a directory is needed in place of")

    def _directory(self, path: str) -> Entry:
        uid, gid = self.placement.owner or (0, 0)
        mode = _DIRECTORY_MODE
        if self.placement.mode is not None and self.placement.mode.octal is not None:
            mode = self.placement.mode.octal
        return Entry(path, Kind.DIRECTORY, mode, uid, gid, self.placement.made_ns)

    def misfit(self, path: str, problem: str) -> DockerfileError:
        """The error for what stands at ``path`` and is in the way."""
        found = self.lookup(path)
        what = found.kind.name.lower().replace("_", " ") if found is not None else "nothing"
        hint = None
        if found is not None and found.kind is Kind.SYMLINK:
            hint = f"/{path} is a link to {found.link}: copy to {found.link} instead"
        return DockerfileError(f"COPY: {problem} the {what} /{path}", hint=hint)

    def resolve(self, path: str) -> str:
        """``path`` with links followed inside the root as it is now, its last component too."""
        return resolve_links(self._read_link, path)

    def _read_link(self, path: str) -> str | None:
        entry = self.lookup(path)
        return entry.link if entry is not None and entry.kind is Kind.SYMLINK else None
