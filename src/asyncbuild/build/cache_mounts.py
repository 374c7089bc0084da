"""RUN --mount=type=cache: which cache it is, what a new one starts with, and waiting for it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import trio

from asyncbuild.build.kept_mounts import pour
from asyncbuild.build.mount_keys import cache_id
from asyncbuild.build.mount_sources import MountSource
from asyncbuild.build.step import At
from asyncbuild.cache.keys import Value, frame
from asyncbuild.context.fingerprint import ContentDigests, entry_fingerprint
from asyncbuild.dockerfile.mounts import Mount, Sharing
from asyncbuild.layers.changeset import ChangeSet, Kind
from asyncbuild.layers.materialise import materialise
from asyncbuild.layers.paths import clean
from asyncbuild.records import dataclass
from asyncbuild.report.events import WarningRaised
from asyncbuild.rootfs import runspec
from asyncbuild.store.cachemounts import CacheKey, TakenCache

NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"
"""The build argument that keeps the caches of some builds apart (BuildKit's)."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
_SAY_SO_AFTER = 1.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class CacheWish:
    """A cache that a RUN wants at ``target``; ``seed`` is what a new one starts with."""

    mount: Mount
    target: str
    seed: MountSource | None = None


@asynccontextmanager
async def taken_caches(
    at: At, wishes: tuple[CacheWish, ...]
) -> AsyncIterator[list[runspec.BindMount]]:
    """The caches, each taken as its mount shares it, until the block ends. Waits for those in use."""
    namespace = at.session.request.build_args.get(NAMESPACE, "")
    keys = [await _key(at, wish, namespace) for wish in wishes]
    first = dict(reversed(list(zip(keys, wishes, strict=True))))
    kept = at.session.kept_mounts
    async with trio.open_nursery() as nursery:
        for key, wish in first.items():
            nursery.start_soon(kept.restored, key, cache_id(wish.mount))
    with ExitStack() as stack:
        taken: dict[CacheKey, TakenCache] = {}
        for key in sorted(first, key=lambda key: key.name):
            taken[key] = await _take(at, key, first[key])
            stack.callback(taken[key].give_back)
            kept.used(key, cache_id(first[key].mount), taken[key].path)
        yield [
            runspec.BindMount(
                taken[key].path,
                wish.target,
                wish.mount.read_only,
                _inside(wish),
                movable=True,
            )
            for key, wish in zip(keys, wishes, strict=True)
        ]


def _inside(wish: CacheWish) -> str:
    """What of the cache is mounted: of one with a seed everything, which may be one file."""
    if wish.seed is None:
        return clean(wish.mount.source)
    return "" if wish.seed.kind is Kind.DIRECTORY else wish.seed.name


async def _key(at: At, wish: CacheWish, namespace: str) -> CacheKey:
    mount = wish.mount
    owner = None
    if clean(mount.source) == "" and (mount.uid, mount.gid, mount.mode) != (None, None, None):
        mode = 0o755 if mount.mode is None else mount.mode & 0o7777
        owner = (mount.uid or 0, mount.gid or 0, mode)
    seed = "" if wish.seed is None else await _seed_name(at, wish.seed)
    return CacheKey(f"{namespace}/{cache_id(mount)}", owner, seed)


async def _seed_name(at: At, seed: MountSource) -> str:
    """What the seed is: a stage that was built to the same content is the same seed."""
    if seed.identity is not None:
        return "" if seed.identity == "scratch" else f"{seed.identity} {seed.path}"
    return await at.session.read_contents(_content_name, seed, at.session.contents)


def _content_name(seed: MountSource, contents: ContentDigests) -> str:
    found = [entry_fingerprint(entry, entry.path, contents) for entry in seed.entries()]
    return hashlib.sha256(frame(cast("Value", tuple(found)))).hexdigest()


async def _take(at: At, key: CacheKey, wish: CacheWish) -> TakenCache:
    caches, sharing = at.session.job.store.cache_mounts, wish.mount.sharing or Sharing.SHARED
    backend = await at.session.backends.chosen()
    if sharing is Sharing.SHARED and not backend.shares_caches:
        sharing = Sharing.LOCKED
    fill = None if wish.seed is None else partial(_fill, wish.seed)
    restored = await at.session.kept_mounts.restored(key, cache_id(wish.mount))
    if restored is not None:
        fill = partial(pour, restored)
    pause, told, since = _FIRST_PAUSE, False, trio.current_time()
    while True:
        taken = await trio.to_thread.run_sync(caches.take_nowait, key, sharing.value, fill)
        if taken is not None:
            return taken
        if not told and trio.current_time() - since > _SAY_SO_AFTER:
            told = True
            text = f"waiting for the cache mount {cache_id(wish.mount)}, which another RUN uses"
            at.session.tell(WarningRaised(text, at.step.instruction.location))
        await trio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _fill(seed: MountSource, directory: Path) -> None:
    """Put the seed into a new cache: a directory's content, or a file under its name."""
    entries = seed.entries()
    materialise(ChangeSet.of(entries), str(directory))
    if seed.kind is Kind.DIRECTORY:
        directory.chmod(entries[0].mode)
