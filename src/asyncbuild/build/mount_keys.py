"""What of a RUN's mounts and devices belongs into its cache key. Pure.

A bind counts by what it shows, a cache by its name and place but not by its content, a secret and an ssh
agent by their ids and places and never by anything that they hold.
"""

from __future__ import annotations

import posixpath

from asyncbuild.cache.keys import Value
from asyncbuild.dockerfile.instructions import Run
from asyncbuild.dockerfile.mounts import Mount, MountType
from asyncbuild.layers.paths import clean
from asyncbuild.records import dataclass

SECRETS_DIRECTORY = "/run/secrets"


@dataclass(frozen=True, slots=True)
class MountKey:
    """One mount's part of the key. ``reads`` is the path in its source (that of the step's source at the
    same place) whose content counts too; None if no content does.
    """

    parts: tuple[Value, ...]
    reads: str | None = None


def mount_parts(instruction: Run) -> tuple[MountKey, ...]:
    """The parts of a RUN whose words are resolved, one for each mount, in order."""
    return tuple(_mount_key(flag.mount()) for flag in instruction.mounts)


def _mount_key(mount: Mount) -> MountKey:
    kind = mount.type.value
    path = clean(mount.source)
    owner: tuple[Value, ...] = (mount.mode, mount.uid, mount.gid)
    match mount.type:
        case MountType.BIND:
            return MountKey((kind, mount.target, int(mount.read_only)), path)
        case MountType.TMPFS:
            return MountKey((kind, mount.target, mount.size, int(mount.read_only)))
        case MountType.CACHE:
            sharing = None if mount.sharing is None else mount.sharing.value
            parts = (kind, cache_id(mount), mount.target, sharing, int(mount.read_only), path)
            return MountKey((*parts, *owner), path if mount.from_ else None)
        case MountType.SECRET:
            return MountKey((kind, secret_id(mount), mount.target, mount.env, *owner))
        case MountType.SSH:
            return MountKey((kind, mount.id or "default", mount.target, *owner))


def cache_id(mount: Mount) -> str:
    """The id of a cache mount: the target as it is written, cleaned, if none is given."""
    return mount.id or _go_clean(mount.target)


def secret_id(mount: Mount) -> str:
    """The id of a secret: its source, or the name of its target."""
    return mount.source or mount.id or posixpath.basename(mount.target.rstrip("/"))


def _go_clean(path: str) -> str:
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned
