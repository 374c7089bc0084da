"""Where the content of an archive goes that ADD unpacks. Pure.

The rules are those of Docker's archive package, which BuildKit unpacks with in a chroot at the destination
(solver/llbsolver/file/unpack.go; moby/go-archive ``Unpack``, ``createTarFile``):

1. The destination is made, 0755, owned by ``--chown`` or else 0:0, and keeps its attributes if it exists.
2. Everything in the archive keeps its mode and time, and its owner unless ``--chown`` is given; ``--chmod``
   and ``--exclude`` are not for archives.
3. What stands in the way is removed, a whole directory too; only directories merge, and then have the
   archive's attributes. A directory takes the place of a symlink.
4. A directory without an entry of its own is only on the way: it follows a symlink that stands there,
   inside the destination, and is made 0755, 0:0 where it is missing.
5. A hard link may be to a file that stands in the destination already. What its entry says of mode, owner
   and time holds for the file (of a symlink the owner alone).
6. Of extended attributes ``security.capability`` alone gets into a layer (containerd's pkg/archive).

Ours: whiteouts (``.wh.x``), which a layer cannot hold as files, are refused.
"""

from __future__ import annotations

from asyncbuild.context.sources import UnpackedArchive
from asyncbuild.context.target import Target
from asyncbuild.errors import DockerfileError
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.paths import clean, join, parent_of, resolve_links
from asyncbuild.records import replace

_DIRECTORY_MODE = 0o755
_WHITEOUT_PREFIX = ".wh."
_CAPABILITY = "security.capability"


def unpack_into(target: Target, archive: UnpackedArchive) -> None:
    """Add what ``archive`` holds to ``target``. `DockerfileError` if it cannot be there."""
    placement = target.placement
    destination = target.resolve(clean(placement.destination))
    uid, gid = placement.owner or (0, 0)
    made = Entry("", Kind.DIRECTORY, _DIRECTORY_MODE, uid, gid, placement.made_ns)
    target.make_all(destination, made)
    unpacking = _Unpacking(target, archive, destination)
    for entry in archive.entries:
        unpacking.add(entry)
    for entry in archive.links:
        unpacking.link(entry)


class _Unpacking:
    def __init__(self, target: Target, archive: UnpackedArchive, destination: str) -> None:
        self._target = target
        self._archive = archive
        self._destination = destination
        self._where = {"": destination}  # where each path of the archive has gone

    def add(self, entry: Entry) -> None:
        """Put one entry where it belongs; the directory above it came before."""
        name = entry.path.rpartition("/")[2]
        if name.startswith(_WHITEOUT_PREFIX):
            raise DockerfileError(
                f"the archive {self._archive.name} holds {entry.path}: in a layer this name removes a file",
                hint="unpack it by a RUN, or without such names",
            )
        path = join(self._directory(parent_of(entry.path)), name)
        if entry.path in self._archive.implicit:
            self._where[entry.path] = self._implied(path)
            return
        self._where[entry.path] = path
        owner = self._target.placement.owner
        uid, gid = owner or (entry.uid, entry.gid)
        link = self._where[entry.link] if entry.kind is Kind.HARDLINK else entry.link
        xattrs = tuple(item for item in entry.xattrs if item[0] == _CAPABILITY)
        self._target.put(replace(entry, path=path, uid=uid, gid=gid, link=link, xattrs=xattrs))

    def link(self, entry: Entry) -> None:
        """Rule 5, for a file that the archive does not hold: the layer has it too then."""
        place = join(self._directory(parent_of(entry.path)), entry.path.rpartition("/")[2])
        above = self._resolve(join(self._destination, parent_of(entry.link)))
        path = join(above, entry.link.rpartition("/")[2])
        found = self._target.lookup(path)
        if found is None or found.kind is Kind.DIRECTORY:
            raise DockerfileError(
                f"the archive {self._archive.name}: {entry.path} is a hard link to {entry.link},"
                " which neither it nor the image has"
            )
        if found.kind is Kind.HARDLINK:
            path = found.link
            found = self._target.lookup(path) or found
        uid, gid = self._target.placement.owner or (entry.uid, entry.gid)
        changed = replace(found, path=place, uid=uid, gid=gid)
        if found.kind is not Kind.SYMLINK:
            mode, time = entry.mode, entry.mtime_ns
            xattrs = tuple(item for item in entry.xattrs if item[0] == _CAPABILITY)
            changed = replace(changed, mode=mode, mtime_ns=time, xattrs=xattrs)
        self._target.link(path, changed)

    def _directory(self, path: str) -> str:
        """Where the directory ``path`` of the archive has gone."""
        if path not in self._where:
            above = self._directory(parent_of(path))
            self._where[path] = self._implied(join(above, path.rpartition("/")[2]))
        return self._where[path]

    def _implied(self, path: str) -> str:
        """Rule 4."""
        real = self._resolve(path)
        made_ns = self._target.placement.made_ns
        self._target.make_all(real, Entry("", Kind.DIRECTORY, _DIRECTORY_MODE, mtime_ns=made_ns))
        return real

    def _resolve(self, path: str) -> str:
        """``path`` with links followed inside the destination."""
        inside = path.removeprefix(self._destination).lstrip("/")
        return join(self._destination, resolve_links(self._read_link, inside))

    def _read_link(self, path: str) -> str | None:
        entry = self._target.lookup(join(self._destination, path))
        return entry.link if entry is not None and entry.kind is Kind.SYMLINK else None
