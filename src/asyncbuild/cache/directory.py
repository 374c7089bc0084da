"""The cache in a local directory: an OCI layout that a CI system may keep between runs.

::

    blobs/sha256/<hex>       the layers
    results/<key>.json       what came of a step with that key (`CachedResult`)
    listings/<chainid>       what a base shows (`asyncbuild.layers.listing`)
    oci-layout, index.json   so that other tools know what it is
    tmp/<random>             a file on its way; whoever writes it holds a lock (flock) on it

Everything appears by rename, so many builds may use one directory; one that cannot be written is read.
The kernel drops locks however their process ends: what a killed build left is removed by the next one that
writes here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import trio

from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import Absence, Answer, CachedResult, DamagedResult, Hit
from asyncbuild.errors import StoreError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.store.store import Store

_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_INDEX = {"schemaVersion": 2, "manifests": []}


class DirectoryCache:
    """Both ends of the cache in ``path``; ``store`` has the blobs that are put."""

    trouble = ""

    def __init__(self, path: Path, store: Store) -> None:
        self.name = f"directory {path}"
        self._path = path
        self._store = store
        self._swept = False

    async def load(self) -> None:
        """Nothing to fetch."""
        await trio.lowlevel.checkpoint()

    async def look_up(
        self,
        keys: Iterable[Key],
        *,
        quick: bool = False,  # noqa: ARG002 - it is quick anyway
    ) -> Mapping[Key, Answer]:
        """Read the records of ``keys``; a result whose blobs are not all here is a miss."""
        wanted = tuple(keys)
        return await trio.to_thread.run_sync(lambda: {key: self._answer(key) for key in wanted})

    async def put(self, keys: tuple[Key, ...], result: CachedResult) -> None:
        """Copy the blobs that are missing, then write the records. Raises `StoreError`."""
        await trio.to_thread.run_sync(self._put, keys, result)

    async def listing(self, chain: DiffId) -> bytes | None:
        """The file of that name."""
        return await trio.to_thread.run_sync(self._read_listing, chain)

    async def put_listing(
        self,
        chain: DiffId,
        data: bytes,
        *,
        anew: bool,
        written: int,  # noqa: ARG002 - a file has its own time
    ) -> None:
        """Write the file. Raises `StoreError`."""
        await trio.to_thread.run_sync(self._write_listing, chain, data, anew)

    async def finish(self) -> None:
        """Nothing is left to write."""
        await trio.lowlevel.checkpoint()

    def _answer(self, key: Key) -> Answer:
        try:
            result = CachedResult.decode((self._path / "results" / f"{key.hex}.json").read_bytes())
        except FileNotFoundError:
            return Absence.MISS
        except (OSError, DamagedResult):
            return Absence.UNAVAILABLE
        blobs = [layer.descriptor for layer in result.layers if layer.descriptor]
        if len(blobs) < len(result.layers) or not all(map(self._has, blobs)):
            return Absence.MISS
        return Hit(key, result, self.name)

    def _put(self, keys: tuple[Key, ...], result: CachedResult) -> None:
        try:
            (self._path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            for name, document in (("oci-layout", _LAYOUT), ("index.json", _INDEX)):
                if not (self._path / name).exists():
                    self._write(self._path / name, json.dumps(document).encode())
            for layer in result.layers:
                assert layer.descriptor is not None
                self._copy(layer.descriptor)
            for key in keys:
                self._write(self._path / "results" / f"{key.hex}.json", result.encode())
        except OSError as error:
            raise StoreError(f"{self.name} cannot be written: {error.strerror}") from error

    def _read_listing(self, chain: DiffId) -> bytes | None:
        try:
            return (self._path / "listings" / chain.hex).read_bytes()
        except OSError:
            return None

    def _write_listing(self, chain: DiffId, data: bytes, anew: bool) -> None:  # noqa: FBT001
        place = self._path / "listings" / chain.hex
        try:
            if anew or not place.exists():
                self._write(place, data)
        except OSError as error:
            raise StoreError(f"{self.name} cannot be written: {error.strerror}") from error

    def _has(self, blob: Descriptor) -> bool:
        """Whether the blob is here, by its size; what it is made of is seen when it is used."""
        try:
            found = self._blob(blob.digest).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == blob.size

    def _blob(self, digest: Digest) -> Path:
        return self._path / "blobs" / digest.algorithm / digest.hex

    def _copy(self, blob: Descriptor) -> None:
        if self._has(blob):
            with contextlib.suppress(OSError):
                os.utime(
                    self._blob(blob.digest)
                )  # it will be named soon: nobody prunes what is young
        else:
            with self._appearing(self._blob(blob.digest)) as temporary:
                shutil.copyfile(self._store.blob_path(blob.digest), temporary)

    def _write(self, path: Path, data: bytes) -> None:
        with self._appearing(path) as temporary:
            temporary.write_bytes(data)

    @contextlib.contextmanager
    def _appearing(self, place: Path) -> Iterator[Path]:
        """A file to be written, which appears at ``place`` if the block ends well."""
        self._sweep()
        temporary, lock = self._temporary()
        try:
            yield temporary
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(lock)

    def _temporary(self) -> tuple[Path, int]:
        directory = self._path / "tmp"
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            temporary = directory / os.urandom(8).hex()
            lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with contextlib.suppress(OSError):  # a file system without locks: nobody sweeps there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return temporary, lock
            os.close(lock)  # swept away before it was locked

    def _sweep(self) -> None:
        """Remove what builds that were killed left half written; once."""
        if self._swept:
            return
        self._swept = True
        for path in (self._path / "tmp").glob("*"):
            with contextlib.suppress(OSError):
                lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                finally:
                    os.close(lock)
