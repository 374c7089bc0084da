"""A build context that is a directory on this machine.

Nothing in it is ever changed: directories are opened without updating their access times where that
is permitted. What the ignore file excludes is not there, and directories in which nothing can be
included are not even opened.

What an image gets of a context, as in BuildKit: owner 0:0 whoever owns the files; modes and times; of
the extended attributes ``security.capability`` alone (the only one that containerd's layers have);
fifos and devices as they are; no sockets.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from asyncbuild.context.ignorefile import IgnoreFile, load_ignore_file
from asyncbuild.context.sources import CopySource, find_sources
from asyncbuild.dockerfile.ignore import IgnorePatterns
from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import Entry, FileSource, Kind
from asyncbuild.layers.paths import join, parent_of, resolve_links
from asyncbuild.layers.records import as_recorded
from asyncbuild.records import dataclass, replace

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CAPABILITY = "security.capability"
_ROOT = Entry("", Kind.DIRECTORY, 0o755)
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
    stat.S_IFIFO: Kind.FIFO,
}


def open_context(context: Path | None, dockerfile: Path | None) -> DirectoryContext:
    """The context at ``context`` under its ignore file; None is a context with nothing in it."""
    return DirectoryContext(context, load_ignore_file(context, dockerfile))


class DirectoryContext:
    """The files of ``path`` that ``ignore`` leaves, by their path from it.

    ``owned``: files belong to whom they belong on disk (what an archive says), not to root.
    Blocks: call it in threads. It may be shared by them. `InputError` if something cannot be read.
    """

    def __init__(
        self, path: Path | None, ignore: IgnoreFile | None = None, *, owned: bool = False
    ) -> None:
        self.owned = owned
        self._root = None if path is None else os.path.realpath(path)
        if self._root is not None and not os.path.isdir(self._root):
            raise InputError(f"the context {path} is not a directory")
        self._ignore = ignore or IgnoreFile()
        self._patterns = self._ignore.patterns

    @property
    def root(self) -> str | None:
        """The directory itself, absolute and without links; None for a context with nothing in it."""
        return self._root

    @property
    def ignored(self) -> IgnorePatterns:
        """What the ignore file leaves out."""
        return self._patterns

    def find(self, pattern: str) -> tuple[CopySource, ...]:
        """What ``pattern`` names, with everything below it; see `find_sources` for the rules.

        `SourceNotFound` says what excludes the path, or which name is nearest.
        """
        return find_sources(self, pattern, explain=self.explain)

    def lookup(self, path: str, /) -> Entry | None:
        """The entry at ``path``, links not followed; None if it is not there or is excluded."""
        entry = self._present(path)
        return entry if entry is not None and self._has(path, entry.kind) else None

    def names(self, path: str, /) -> list[str]:
        """The sorted names in the directory ``path`` that are not excluded."""
        if self._root is None or not self._is_directory(path):
            return []
        descriptor = _open(path, f"{self._root}/{path}", None)
        try:
            found = _read(path, descriptor)
        finally:
            os.close(descriptor)
        kinds = ((name, _KINDS.get(stat.S_IFMT(status.st_mode))) for name, status in found)
        return sorted(n for n, k in kinds if k is not None and self._has(join(path, n), k))

    def resolve(self, path: str, /, *, follow_last: bool = True) -> str:
        """``path`` with symlinks resolved inside the context; they never lead out of it."""
        return resolve_links(self._read_link, path, follow_last=follow_last)

    def walk(self, path: str = "", /, *, hardlinks: bool = True) -> Iterator[Entry]:
        """The entry at ``path`` and all below it that is not excluded, parents first, in `path_order`.

        With ``hardlinks`` the second and later names of one file are HARDLINK entries. A directory
        that is excluded comes only if something in it is included again.
        """
        entry = self.lookup(path)
        if entry is None:
            return
        yield entry
        if entry.kind is Kind.DIRECTORY:
            yield from self._below(path, hardlinks=hardlinks)

    def explain(self, path: str) -> str | None:
        """Why nothing is at ``path``, for people, if that is not simply so."""
        if self._root is None:
            return "this build has no context"
        return self._ignore.explain(path) if self._present(path) is not None else None

    def _present(self, path: str) -> Entry | None:
        """The entry at ``path`` whether it is excluded or not."""
        if self._root is None:
            return _ROOT if not path else None
        if not self._is_directory(parent_of(path)):
            return None
        host = f"{self._root}/{path}" if path else self._root
        try:
            return _entry(path, host, os.lstat(host), owned=self.owned)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                return None
            raise _unreadable(path, error) from error

    def _is_directory(self, path: str) -> bool:
        """Whether each component is a directory, and no link: the host path stays inside."""
        if not path:
            return True
        if not self._is_directory(parent_of(path)):
            return False
        try:
            return stat.S_ISDIR(os.lstat(f"{self._root}/{path}").st_mode)
        except OSError:
            return False

    def _read_link(self, path: str) -> str | None:
        if self._patterns.excluded(path):
            return None
        entry = self._present(path)
        return entry.link if entry is not None and entry.kind is Kind.SYMLINK else None

    def _has(self, path: str, kind: Kind) -> bool:
        """Whether what stands at ``path`` is included; a directory is for what is in it."""
        if not self._patterns.excluded(path):
            return True
        if kind is not Kind.DIRECTORY or self._patterns.prunable(path):
            return False
        return next(self._below(path), None) is not None

    def _below(self, path: str, *, hardlinks: bool = False) -> Iterator[Entry]:
        """All that is included below the directory ``path``, which itself may be excluded."""
        if self._root is None or not self._is_directory(path):
            return
        host = f"{self._root}/{path}" if path else self._root
        with _Walk(self._patterns, owned=self.owned) as walk:
            walk.enter(path, host, host)
            for entry, status in walk:
                yield _first_or_link(entry, status, walk.first) if hardlinks else entry


@dataclass(slots=True)
class _Level:
    """A directory that is being walked: what is still to come of it, the next name last.

    ``held_back`` is its entry if it is excluded and nothing in it has come yet.
    """

    path: str
    host: str
    descriptor: int
    pending: list[tuple[str, os.stat_result]]
    held_back: tuple[Entry, os.stat_result] | None = None


class _Walk:
    """A walk by descriptors: of every directory on the way down, one is open."""

    def __init__(self, patterns: IgnorePatterns, *, owned: bool) -> None:
        self._patterns = patterns
        self._owned = owned
        self._levels: list[_Level] = []
        self.first: dict[tuple[int, int], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self._levels:
            os.close(level.descriptor)

    def enter(self, path: str, host: str, name: str) -> _Level:
        """Go into the directory ``name`` of the innermost level (or from anywhere)."""
        parent = self._levels[-1].descriptor if self._levels else None
        level = _Level(path, host, _open(path, name, parent), [])
        self._levels.append(level)
        level.pending = _read(path, level.descriptor)
        level.pending.sort(reverse=True)
        return level

    def __iter__(self) -> Iterator[tuple[Entry, os.stat_result]]:
        levels, excluded = self._levels, self._patterns.excluded
        while levels:
            level = levels[-1]
            if not level.pending:
                os.close(levels.pop().descriptor)
                continue
            name, status = level.pending.pop()
            where = f"{level.path}/{name}" if level.path else name
            host = f"{level.host}/{name}"
            entry = _entry(where, host, status, owned=self._owned)
            if entry is None:
                continue
            included = not excluded(where)
            if included:
                yield from self._held_back()
                yield entry, status
            if entry.kind is Kind.DIRECTORY and (included or not self._patterns.prunable(where)):
                inside = self.enter(where, host, name)
                inside.held_back = None if included else (entry, status)

    def _held_back(self) -> Iterator[tuple[Entry, os.stat_result]]:
        """Excluded directories above something that is included: they come now."""
        for level in self._levels:
            if level.held_back is not None:
                yield level.held_back
                level.held_back = None


def _read(path: str, descriptor: int) -> list[tuple[str, os.stat_result]]:
    """Names and attributes in an open directory; what vanishes meanwhile was never there."""
    found = []
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append((entry.name, status))
    except OSError as error:
        raise _unreadable(path, error) from error
    return found


def _first_or_link(
    entry: Entry, status: os.stat_result, first: dict[tuple[int, int], str]
) -> Entry:
    if status.st_nlink < 2 or entry.kind is not Kind.FILE:
        return entry
    name = first.setdefault((status.st_dev, status.st_ino), entry.path)
    if name == entry.path:
        return entry
    return replace(entry, kind=Kind.HARDLINK, link=name, size=0, source=None)


def _entry(path: str, host: str, status: os.stat_result, *, owned: bool) -> Entry | None:
    """What an image gets of it; None for what an image cannot hold."""
    entry = _found(path, host, status, owned=owned)
    return entry if entry is None or not owned else as_recorded(entry, host)


def _found(path: str, host: str, status: os.stat_result, *, owned: bool) -> Entry | None:
    """As it is on disk, where a single id can set no owners."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    uid, gid = (status.st_uid, status.st_gid) if owned else (0, 0)
    if kind is Kind.FILE:
        return Entry(
            path,
            kind,
            status.st_mode & 0o7777,
            uid,
            gid,
            mtime_ns=status.st_mtime_ns,
            size=status.st_size,
            xattrs=_capability(host) if status.st_mode & 0o111 else (),
            source=FileSource(host),
        )
    if kind is None:
        return None
    link, device = "", (0, 0)
    if kind is Kind.SYMLINK:
        link = os.readlink(host)
    elif kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    mode = status.st_mode & 0o7777
    time = status.st_mtime_ns
    return Entry(path, kind, mode, uid, gid, mtime_ns=time, link=link, device=device)


def _capability(host: str) -> tuple[tuple[str, bytes], ...]:
    """The capabilities of a program; a file that nobody may execute has no use for any."""
    try:
        if _CAPABILITY in os.listxattr(host, follow_symlinks=False):
            return ((_CAPABILITY, os.getxattr(host, _CAPABILITY, follow_symlinks=False)),)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOENT):
            raise
    return ()


def _open(path: str, name: str, parent: int | None) -> int:
    """A directory, its access time left as it is if we may (its owner, or root)."""
    try:
        try:
            return os.open(name, _OPEN | os.O_NOATIME, dir_fd=parent)
        except PermissionError:
            return os.open(name, _OPEN, dir_fd=parent)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(
        f"cannot read /{path} in the build context: {error.strerror}",
        hint="exclude it in .dockerignore if it is not needed",
    )
