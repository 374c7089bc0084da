"""Writing a mend: a directory in overlayfs' lower format, of hardlinks to files that exist already."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from asyncbuild.layers.changeset import Entry, FileSource, Kind, path_order
from asyncbuild.layers.marks import make_opaque, make_whiteout
from asyncbuild.layers.records import make_device_at, set_owner_and_mode
from asyncbuild.layers.xattrs import set_xattrs
from asyncbuild.records import dataclass

_NO_LINK = (errno.EMLINK, errno.EXDEV, errno.EPERM)
_DEVICES = {
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


@dataclass(frozen=True, slots=True)
class Placed:
    """What a mend has at one path: ``entry`` is None for a whiteout.

    ``host`` is a path of the same thing on this machine, if it is known; a file's source is another.
    """

    entry: Entry | None
    opaque: bool = False
    host: str | None = None


def write_mend(root: Path, placed: dict[str, Placed]) -> None:
    """Make everything in ``placed`` below the empty directory ``root``; parents are in ``placed`` too.

    ``root`` and what comes to be in it belong to this process alone.
    """
    order = sorted(placed, key=path_order)
    for path in order:
        if path:
            _make(f"{root}/{path}", placed[path])
    for path in reversed(order):
        item = placed[path]
        if item.entry is not None and item.entry.kind is Kind.DIRECTORY:
            host = f"{root}/{path}" if path else str(root)
            _set_attributes(host, item.entry)
            if item.opaque:
                make_opaque(host)
                os.utime(host, ns=(item.entry.mtime_ns, item.entry.mtime_ns))


def _make(host: str, item: Placed) -> None:
    entry = item.entry
    if entry is None:
        _hide(host)
    elif entry.kind is Kind.DIRECTORY:
        os.mkdir(host, 0o700)
    else:
        source = item.host or (entry.source.path if isinstance(entry.source, FileSource) else None)
        if source is None or not _link(source, host):
            _make_anew(host, entry, source)


def _hide(host: str) -> None:
    parent, _, name = host.rpartition("/")
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        make_whiteout(name, directory)
    finally:
        os.close(directory)


def _link(source: str, host: str) -> bool:
    try:
        os.link(source, host, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _make_anew(host: str, entry: Entry, source: str | None) -> None:
    if entry.kind is Kind.SYMLINK:
        os.symlink(entry.link, host)
    elif entry.kind is Kind.FILE:
        assert source is not None
        shutil.copyfile(source, host, follow_symlinks=False)
    elif not make_device_at(host, _DEVICES[entry.kind], entry):
        return
    _set_attributes(host, entry)


def _set_attributes(host: str, entry: Entry) -> None:
    """Owner first (it drops set-id bits and capabilities), times last."""
    set_owner_and_mode(host, entry)
    set_xattrs(host, entry.xattrs)
    os.utime(host, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
