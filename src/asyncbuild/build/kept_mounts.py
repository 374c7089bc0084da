"""Cache mounts that outlive a machine: their contents in a registry, or in a directory that a CI system
keeps, between one run and the next.

::

    REPOSITORY:[TAG-]m-<sha256 of the cache's key>   a manifest with one layer, the cache's content, and an
                                                     empty configuration; annotations hold the rest

1. A cache is fetched when the first RUN wants it and this machine has none; it is verified as a layer is.
   What cannot be had or is damaged is a warning, and the cache begins empty.
2. It is saved when the build is done, if its content is another than what is saved: equal content packs to
   equal bytes. All of it is optional: faults are warnings, and the end of a build waits a stated time.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from asyncbuild.build.futures import Future
from asyncbuild.build.job import Job
from asyncbuild.build.mount_places import saved_mounts
from asyncbuild.build.outcome import one_error
from asyncbuild.build.request import MountPlace
from asyncbuild.cache.registry import MOUNT, WRITTEN, moment
from asyncbuild.errors import AsyncbuildError, RemoteProtocolError
from asyncbuild.image.digest import DiffId, InvalidDigest
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.compression import GZIP
from asyncbuild.layers.pack import PackedLayer
from asyncbuild.layers.records import set_owner_and_mode
from asyncbuild.layers.snapshot import entry_of
from asyncbuild.report.events import WarningRaised
from asyncbuild.store.cachemounts import CacheKey

DIFF_ID = "dev.asyncbuild.mount.diff-id"
ROOT = "dev.asyncbuild.mount.root"
"""Annotations, beside the cache's id and the time: the content's DiffId, and uid:gid:mode (octal) of its
own directory.
"""


class KeptMounts:
    """The cache mounts of one attempt at a build: where they come from, and where they go."""

    def __init__(
        self, job: Job, sources: tuple[MountPlace, ...], targets: tuple[MountPlace, ...]
    ) -> None:
        self._job = job
        self._sources = sources
        self._targets = targets
        self._flights: dict[CacheKey, Future[Path | None]] = {}
        self._used: dict[CacheKey, tuple[str, Path]] = {}

    async def restored(self, key: CacheKey, name: str) -> Path | None:
        """A directory with what the cache called ``name`` begins with, if a source has it and this machine
        has no such cache; fetched once.
        """
        if not any(place.keeps(name) for place in self._sources):
            return None
        if await trio.to_thread.run_sync(self._job.store.cache_mounts.exists, key):
            return None
        if key not in self._flights:
            self._flights[key] = self._job.ledger.spawn(
                self._job.nursery, f"restore cache mount {name}", self._restore, key, name
            )
        return await self._flights[key].wait()

    def used(self, key: CacheKey, name: str, path: Path) -> None:
        """A RUN has used this instance of a cache."""
        self._used[key] = (name, path)

    async def finish(self, seconds: float) -> None:
        """Save what was used, all at once; wait at most ``seconds``."""
        with trio.move_on_after(seconds) as scope:
            async with trio.open_nursery() as nursery:
                for place in self._targets:
                    for key, (name, path) in self._used.items():
                        if place.keeps(name):
                            nursery.start_soon(self._save, place, key, name, path)
        if scope.cancelled_caught:
            self._warn(f"saving cache mounts took longer than {seconds:.0f} s and was given up")

    async def _restore(self, key: CacheKey, name: str) -> Path | None:
        for place in self._sources:
            if place.keeps(name):
                found = await self._tolerate(
                    f"the cache mount {name} begins empty",
                    partial(self._fetch, place, key),
                )
                if found is not None:
                    return found
        return None

    async def _fetch(self, place: MountPlace, key: CacheKey) -> Path | None:
        saved, tag = saved_mounts(self._job, place), place.tag(key.name)
        manifest = await saved.find(tag)
        if manifest is None:
            return None
        work = await trio.to_thread.run_sync(self._job.store.new_work, "mount", "fs")
        try:
            (layer,) = manifest.layers
            diff_id = DiffId.parse(manifest.annotations[DIFF_ID])
            async with saved.open(layer) as chunks:
                await self._job.workers.unpack(layer, diff_id, work / "fs", chunks)
            await trio.to_thread.run_sync(_set_root, work / "fs", manifest.annotations[ROOT])
        except (KeyError, ValueError, InvalidDigest) as error:
            self._job.store.discard(work)
            raise RemoteProtocolError(f"{saved.name}:{tag} is no cache mount: {error}") from None
        except BaseException:
            self._job.store.discard(work)
            raise
        return work / "fs"

    async def _save(self, place: MountPlace, key: CacheKey, name: str, path: Path) -> None:
        await self._tolerate(
            f"the cache mount {name} is not saved", partial(self._push, place, key, name, path)
        )

    async def _push(self, place: MountPlace, key: CacheKey, name: str, path: Path) -> None:
        size = await trio.to_thread.run_sync(_content_size, path)
        if size > place.most:
            self._warn(
                f"the cache mount {name} has {size} bytes, more than {place.most}: it is not saved"
                " (max-size= of --cache-mount-to allows more)"
            )
            return
        taken = await trio.to_thread.run_sync(self._job.store.cache_mounts.look_nowait, path)
        if taken is None:
            self._warn(f"the cache mount {name} is in use by another build: it is not saved")
            return
        blob = await trio.to_thread.run_sync(self._job.store.new_blob)
        try:
            root = await trio.to_thread.run_sync(_root_of, path)
            packed = await self._job.workers.pack_upper(path, (), blob, GZIP)
        finally:
            taken.give_back()
        try:
            await self._send(place, key, {MOUNT: name, ROOT: root}, packed, blob)
        finally:
            self._job.store.discard(blob)

    async def _send(
        self,
        place: MountPlace,
        key: CacheKey,
        about: dict[str, str],
        packed: PackedLayer,
        blob: Path,
    ) -> None:
        saved, tag = saved_mounts(self._job, place), place.tag(key.name)
        about = {**about, DIFF_ID: str(packed.diff_id)}
        known = await saved.find(tag)
        if known is not None and about.items() <= known.annotations.items():
            return
        annotations = {**about, WRITTEN: moment(self._job.started)}
        await saved.put(tag, packed.descriptor, blob, annotations)

    async def _tolerate(self, what: str, work: Callable[[], Awaitable[Path | None]]) -> Path | None:
        try:
            with one_error():
                return await work()
        except AsyncbuildError as error:
            self._warn(f"{what}: {error.message}")
        except OSError as error:  # a file that another build removed while it was looked at
            self._warn(f"{what}: {error.strerror} ({error.filename})")
        return None

    def _warn(self, text: str) -> None:
        self._job.reporter.emit(WarningRaised(text))


def pour(restored: Path, tree: Path) -> None:
    """Move what was restored into a new cache's directory. Blocks."""
    for name in os.listdir(restored):
        (restored / name).rename(tree / name)
    _set_root(tree, _root_of(restored))


def _root_of(path: Path) -> str:
    root = entry_of(str(path), "")
    assert root is not None
    return f"{root.uid}:{root.gid}:{root.mode:o}"


def _set_root(path: Path, text: str) -> None:
    """Give it to whom it belongs, or record that where owners cannot be set."""
    uid, gid, mode = text.split(":")
    root = Entry("", Kind.DIRECTORY, int(mode, 8) & 0o7777, int(uid), int(gid))
    set_owner_and_mode(str(path), root)


def _content_size(path: Path) -> int:
    total = 0
    for _, _, files, descriptor in os.fwalk(path):
        for name in files:
            total += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_size
    return total
