"""Base images in a directory: one OCI layout, filled by ``asyncbuild warm`` and read by ``--cache-dir``.

::

    oci-layout, index.json   an entry for each name, with the time at which the image was fetched
    blobs/sha256/<hex>       manifests, configurations, layers: each once, whatever images have it
    tmp/<algorithm>-<hex>    a blob on its way; whoever writes it holds a lock (flock) on it

1. A blob appears by rename, verified; a manifest after its blobs; ``index.json`` last, by rename, under a
   lock on the directory. The kernel drops locks however their process ends: who is killed leaves nothing
   that can be seen, and nothing that must be cleared away by hand.
2. Readers take no locks and write nothing. What they read is compared with its digest, so a name says
   nothing: an entry that was renamed or damaged is never taken for another image.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asyncbuild.cache.results import result_blobs
from asyncbuild.errors import StoreError
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.manifest import (
    OCI_INDEX,
    Descriptor,
    Index,
    InvalidManifest,
    Manifest,
    parse_manifest,
)
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field, replace

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
FETCHED = "dev.asyncbuild.fetched"
"""The annotation of an entry: when the image was fetched, or last found to be the same (RFC 3339)."""

_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_LARGEST_DOCUMENT = 16 << 20
_GRACE = 3600.0
"""Seconds for which a blob that nothing names is left: a warmer may be about to name it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a directory holds: names (as `Reference` prints them), and since when (seconds since the epoch)
    it has each image, index and blob. ``problem`` says why it cannot be used at all.
    """

    names: frozenset[str] = frozenset()
    since: Mapping[Digest, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the index: what a name means; ``size`` counts all bytes of the image that are here."""

    name: str
    descriptor: Descriptor
    since: float
    size: int


class DamagedEntry(Exception):
    """A document whose bytes are not those of its digest, or no manifest."""


class ImageDirectory:
    """The directory at ``path``. Blocks; call it in threads. What changes it raises `StoreError`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # Reading

    def read(self) -> Listing:
        """Everything that is listed and here. Never fails: what is wrong is the listing's problem."""
        try:
            entries = self._entries()
        except (OSError, ValueError, InvalidManifest) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return Listing(problem=f"{self.path} is no OCI layout: {reason}")
        since: dict[Digest, float] = {}
        for entry in entries:
            for digest in self._reachable(entry):
                since[digest] = max(since.get(digest, 0.0), self._since(entry))
        return Listing(frozenset(name for entry in entries for name in _names(entry)), since)

    def document(self, digest: Digest) -> bytes | None:
        """A manifest or configuration, verified; None if it is not here. Raises `DamagedEntry`."""
        try:
            with self.blob(digest).open("rb") as file:
                data = file.read(_LARGEST_DOCUMENT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedEntry(f"{digest} cannot be read: {error.strerror}") from error
        if not digest.matches(data):
            raise DamagedEntry(f"{digest} holds other bytes")
        return data

    def manifest(self, digest: Digest) -> Manifest | Index | None:
        """A manifest or index; None if it is not here. Raises `DamagedEntry`."""
        raw = self.document(digest)
        if raw is None:
            return None
        try:
            return parse_manifest(raw)
        except InvalidManifest as error:
            raise DamagedEntry(f"{digest} is no manifest: {error}") from None

    def blob(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self.path / "blobs" / digest.algorithm / digest.hex

    def has(self, blob: Descriptor) -> bool:
        """Whether a blob is here, with the size that it must have."""
        try:
            return self.blob(blob.digest).stat().st_size == blob.size
        except OSError:
            return False

    def entries(self) -> tuple[Entry, ...]:
        """What is listed, the oldest first. Raises `StoreError` if this is no such directory."""
        with _explained(self.path):
            try:
                found = self._entries()
            except (ValueError, InvalidManifest) as error:
                raise StoreError(f"{self.path} is no OCI layout: {error}") from error
            made = [
                Entry(next(iter(_names(item)), ""), item, self._since(item), self._size(item))
                for item in found
            ]
        return tuple(sorted(made, key=lambda entry: (entry.since, entry.name)))

    # Changing

    def prepare(self) -> None:
        """Make it if it does not exist; files of others that are in it stay as they are."""
        with _explained(self.path):
            if (self.path / "records").is_dir() and (self.path / "layers").is_dir():
                raise StoreError(
                    f"{self.path} is a store of asyncbuild", hint="choose another directory"
                )
            for name in ("blobs/sha256", "tmp"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            with self._locked():
                if not (self.path / "index.json").exists():
                    self._write(self.path / "index.json", _encoded({}, ()))
                if not (self.path / "oci-layout").exists():
                    self._write(self.path / "oci-layout", json.dumps(_LAYOUT).encode())

    def reserve(self, digest: Digest) -> Reservation | None:
        """The right to write a blob, which may be here already; None while somebody else has it."""
        with _explained(self.path):
            path = self.path / "tmp" / f"{digest.algorithm}-{digest.hex}"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock_nowait(lock, path):
                os.close(lock)
                return None
            os.ftruncate(lock, 0)
            return Reservation(path, self.blob(digest), lock)

    def put(self, data: bytes) -> Digest:
        """Keep a document that is at hand."""
        digest = Digest.of(data)
        with _explained(self.path):
            try:
                known = self.document(digest)
            except DamagedEntry:
                known = None
            if known is None:
                self._write(self.blob(digest), data)
        return digest

    def add(
        self, name: Reference | str, top: Descriptor, needed: Iterable[Descriptor], now: float
    ) -> bool:
        """List ``top`` under ``name``, in place of what had the name; False if a blob of ``needed`` is gone
        (somebody pruned it just now).
        """
        with _explained(self.path), self._locked():
            if not all(self.has(blob) for blob in needed):
                return False
            moment = dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            annotations = {REF_NAME: str(name), IMAGE_NAME: str(name), FETCHED: moment}
            document = self._document()
            others = [item for item in self._listed(document) if str(name) not in _names(item)]
            named = replace(top, annotations=annotations)
            self._write(self.path / "index.json", _encoded(document, [*others, named]))
            return True

    def keep(self, blobs: Iterable[Descriptor]) -> None:
        """Say that these blobs, which are here, will be named soon."""
        for blob in blobs:
            with contextlib.suppress(OSError):
                os.utime(self.blob(blob.digest))

    def prune(self, before: float, now: float) -> tuple[Entry, ...]:
        """Drop the entries from before ``before`` (seconds since the epoch), and every blob that nothing
        names any more; returns the entries.
        """
        with _explained(self.path), self._locked():
            every = self.entries()
            going = tuple(entry for entry in every if entry.since < before)
            if going:
                left = [entry.descriptor for entry in every if entry not in going]
                self._write(self.path / "index.json", _encoded(self._document(), left))
            self._remove_unnamed(now)
        return going

    def sweep(self, now: float) -> None:
        """Remove what warmers that were killed left half written."""
        with contextlib.suppress(OSError):
            for path in (self.path / "tmp").iterdir():
                if path.name.startswith("file-") and path.stat().st_mtime > now - _GRACE:
                    continue  # it is there only for the moment that writing it takes
                lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if _lock_nowait(lock, path):
                        path.unlink(missing_ok=True)
                finally:
                    os.close(lock)

    def _remove_unnamed(self, now: float) -> None:
        named = {digest for entry in self._entries() for digest in self._reachable(entry)}
        named |= set(result_blobs(self.path))  # a cache of results may be here as well
        for path in (self.path / "blobs").glob("*/*"):
            with contextlib.suppress(InvalidDigest, FileNotFoundError):
                digest = Digest.parse(f"{path.parent.name}:{path.name}")
                if digest not in named and path.stat().st_mtime < now - _GRACE:
                    path.unlink()

    def _document(self) -> dict[str, Any]:
        document = json.loads((self.path / "index.json").read_bytes())
        if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
            raise ValueError("index.json is no image index")  # noqa: TRY004 - as for no JSON
        return document

    def _entries(self) -> list[Descriptor]:
        marker = json.loads((self.path / "oci-layout").read_bytes())
        if not isinstance(marker, dict) or marker.get("imageLayoutVersion") != "1.0.0":
            raise ValueError("it has another version")
        return self._listed(self._document())

    def _listed(self, document: Mapping[str, Any]) -> list[Descriptor]:
        return [Descriptor.from_json(item) for item in document["manifests"]]

    def _reachable(self, entry: Descriptor) -> Iterator[Digest]:
        """``entry`` and what of it is here; what is damaged leads to nothing."""
        for blob in self._present(entry):
            yield blob.digest

    def _present(self, entry: Descriptor) -> Iterator[Descriptor]:
        yield entry
        try:
            manifest = self.manifest(entry.digest)
        except DamagedEntry:
            return
        if isinstance(manifest, Index):
            for item in manifest.manifests:
                if self.blob(item.digest).exists():
                    yield from self._present(item)
        elif manifest is not None:
            yield from (manifest.config, *manifest.layers)

    def _size(self, entry: Descriptor) -> int:
        return sum({blob.digest: blob.size for blob in self._present(entry)}.values())

    def _since(self, entry: Descriptor) -> float:
        """What the entry says; of a layout that another program made, the age of the file."""
        try:
            return dt.datetime.fromisoformat(entry.annotations[FETCHED]).timestamp()
        except (KeyError, ValueError):
            pass
        try:
            return self.blob(entry.digest).stat().st_mtime
        except OSError:
            return 0.0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, place: Path, data: bytes) -> None:
        temporary = self.path / "tmp" / f"file-{os.urandom(8).hex()}"
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(target, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(target)
            place.parent.mkdir(exist_ok=True)
            temporary.rename(place)


@dataclass(slots=True)
class Reservation:
    """A blob that we alone may write, at ``path``; it appears at ``place``."""

    path: Path
    place: Path
    _lock: int

    def commit(self) -> None:
        """Let it appear; whoever wrote it has verified it."""
        with _explained(self.place.parent):
            os.fsync(self._lock)
            self.place.parent.mkdir(exist_ok=True)
            self.path.rename(self.place)

    def release(self) -> None:
        """Give the right back; what was not committed goes."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == os.fstat(self._lock).st_ino:
                    self.path.unlink()
            os.close(self._lock)
            self._lock = -1


def _lock_nowait(lock: int, path: Path) -> bool:
    """Lock an open file at once, if it is still the one that is at ``path``."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.stat(path).st_ino == os.fstat(lock).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _names(entry: Descriptor) -> tuple[str, ...]:
    names = (entry.annotations.get(REF_NAME), entry.annotations.get(IMAGE_NAME))
    return tuple(dict.fromkeys(name for name in names if name))


def _encoded(old: Mapping[str, Any], entries: Iterable[Descriptor]) -> bytes:
    fresh = {"schemaVersion": 2, "mediaType": OCI_INDEX}
    document = {**fresh, **old, "manifests": [entry.to_json() for entry in entries]}
    return json.dumps(document, indent=2).encode() + b"\n"


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError.of(f"the image directory {path} cannot be used", error) from error
    except ValueError as error:
        raise StoreError(f"the image directory {path}: {error}") from error
