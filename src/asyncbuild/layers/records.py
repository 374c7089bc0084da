"""Owners and whatever else this process may not set on disk, recorded beside what it can.

Root of a machine, of a pod, or of a user namespace with subordinate ids sets owners. Where there is one
owner only (any user who is not root; root of a namespace with one id) they are written down in the
extended attribute ``user.asyncbuild.record``, which overlayfs carries along when a file is copied up. It
holds JSON: ``o`` is [uid, gid], ``m`` the mode, ``d`` [tar's type, major, minor] of a device that a file
stands for, ``x`` pairs of extended attributes with their bytes in base64. Links and fifos cannot have it:
their parent has it for them, under a name that ends in a digest of theirs.

Root without CAP_MKNOD, and root of any user namespace, sets owners but makes no device: there an empty file
with ``d`` stands for each, whose owner and mode are the device's.

An attribute of these names never travels: no layer can set or show one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from typing import Any, Final

from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.marks import form
from asyncbuild.records import replace

PREFIX: Final = "user.asyncbuild."
_RECORD: Final = f"{PREFIX}record"
_OWN_DISK: Final = 0o700
_DEVICES: Final = {kind.value: kind for kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)}
_WITHOUT: Final = (Kind.SYMLINK, Kind.FIFO)


@cache
def records() -> bool:
    """Whether this process has to record owners."""
    return os.geteuid() != 0 or _maps_one_id()


@cache
def is_outside() -> bool:
    """Whether this process is not root: it records modes too, lest it lock itself out."""
    return os.geteuid() != 0


def store_form() -> str:
    """What layers, mends and trees of this process are kept under, apart from those of others."""
    if not records():
        return form()
    return "recorded-modes" if is_outside() else "recorded"


def _maps_one_id() -> bool:
    for name in ("uid_map", "gid_map"):
        try:
            with open(f"/proc/self/{name}", "rb") as file:
                counts = [int(line.split()[2]) for line in file]
        except OSError:
            continue
        if counts == [1]:
            return True
    return False


def mode_on_disk(entry: Entry) -> int:
    """The mode that a file or directory gets: as it is, or one with which its owner can work."""
    if not is_outside():
        return entry.mode
    return (entry.mode & 0o755) | (_OWN_DISK if entry.kind is Kind.DIRECTORY else 0o600)


def record(target: str | int, entry: Entry) -> None:
    """Write down what is not on disk, for a file or directory (a path, not followed, or a descriptor)."""
    noted = _noted(entry)
    if noted:
        os.setxattr(target, _RECORD, noted, follow_symlinks=isinstance(target, int))


def record_anew(target: int, entry: Entry) -> None:
    """As `record`, in place of what was written down before."""
    with suppress(OSError):
        os.removexattr(target, _RECORD)
    record(target, entry)


def record_in(parent: str | int, name: str, entry: Entry) -> None:
    """The same for a link or a fifo, in its directory; what stood there before may have left a record."""
    noted = _noted(entry)
    if noted:
        os.setxattr(parent, _name_in_parent(name), noted)
    else:
        with suppress(OSError):
            os.removexattr(parent, _name_in_parent(name))


def make_device(name: str, directory: int, type_: int, entry: Entry) -> bool:
    """A device or fifo of a type (S_IFCHR, …) in an open directory, or a file that stands for it.

    Whether it is the former: then all its attributes are still to be set.
    """
    try:
        if not records() or entry.kind is Kind.FIFO:
            number = os.makedev(*entry.device) if entry.kind is not Kind.FIFO else 0
            os.mknod(name, type_ | 0o600, number, dir_fd=directory)
            return True
    except PermissionError:
        if entry.kind is Kind.FIFO:
            raise
    stand_in(directory, name, entry)
    return False


def make_device_at(host: str, type_: int, entry: Entry) -> bool:
    """The same at a path."""
    head, _, name = host.rpartition("/")
    directory = os.open(head or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return make_device(name, directory, type_, entry)
    finally:
        os.close(directory)


def stand_in(directory: int, name: str, entry: Entry) -> None:
    """A new file with a record, for a device that this process may not make."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        record(descriptor, entry)
        if not records():
            os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, mode_on_disk(entry))
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(descriptor)


def set_owner_and_mode(host: str, entry: Entry) -> None:
    """Give what stands at ``host`` the entry's owner and mode, or its record."""
    if not records():
        os.chown(host, entry.uid, entry.gid, follow_symlinks=False)
    elif entry.kind in _WITHOUT:
        parent, _, name = host.rpartition("/")
        record_in(parent, name, entry)
    else:
        record(host, entry)
    if entry.kind is not Kind.SYMLINK:
        os.chmod(host, mode_on_disk(entry))


def _noted(entry: Entry) -> bytes:
    fields: dict[str, Any] = {}
    if (entry.uid, entry.gid) != (0, 0):
        fields["o"] = [entry.uid, entry.gid]
    if is_outside():
        if entry.kind is not Kind.SYMLINK:
            fields["m"] = entry.mode
        refused = [pair for pair in entry.xattrs if not pair[0].startswith("user.")]
    else:
        refused = [pair for pair in entry.xattrs if pair[0].startswith("trusted.")]
    if refused:
        fields["x"] = [[name, base64.b64encode(value).decode()] for name, value in refused]
    if entry.kind.value in _DEVICES:
        fields["d"] = [entry.kind.value, *entry.device]
    return json.dumps(fields, separators=(",", ":")).encode() if fields else b""


def as_recorded(entry: Entry, host: str) -> Entry:
    """``entry``, as it was found at ``host`` on disk by this process, with what is recorded of it."""
    if not records():
        return _stood_for(entry, host)
    entry = replace(entry, uid=0, gid=0)
    where, name = host, _RECORD
    if entry.kind in _WITHOUT:
        where, _, base = host.rpartition("/")
        name = _name_in_parent(base)
    try:
        fields = json.loads(os.getxattr(where, name, follow_symlinks=False))
        return _with_fields(entry, fields)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return entry  # nothing is recorded, or a RUN has written nonsense there


def _stood_for(entry: Entry, host: str) -> Entry:
    """The device that an empty file stands for, with the file's owner and mode; ``entry`` if for none."""
    if entry.kind is not Kind.FILE or entry.size:
        return entry
    try:
        fields = json.loads(os.getxattr(host, _RECORD, follow_symlinks=False))
        return _with_fields(entry, {"o": (entry.uid, entry.gid), "d": fields["d"]})
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return entry


def _with_fields(entry: Entry, fields: dict[str, Any]) -> Entry:
    uid, gid = fields.get("o", (0, 0))
    mode = int(fields.get("m", entry.mode)) & 0o7777
    extra = [(str(name), base64.b64decode(value)) for name, value in fields.get("x", ())]
    entry = replace(entry, uid=int(uid), gid=int(gid), mode=mode)
    if extra:
        entry = replace(entry, xattrs=tuple(sorted({**dict(entry.xattrs), **dict(extra)}.items())))
    if "d" in fields:
        kind, major, minor = fields["d"]
        device = (int(major), int(minor))
        entry = replace(entry, kind=_DEVICES[kind], device=device, size=0, source=None)
    return entry


def _name_in_parent(name: str) -> str:
    return f"{PREFIX}of.{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}"
