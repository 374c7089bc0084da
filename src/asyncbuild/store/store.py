"""The store: blobs, unpacked layers and mends that builds on this machine share.

Everything appears by rename, complete; what a process had begun when it was killed is never seen and
is removed later. Many processes may use one store at a time. After a crash of the machine what may
not have reached the disk is verified again or dropped when the store is opened (see
`asyncbuild.store.journal`). A store belongs on a local file system.

All of this blocks: call it in threads. Every method may be called from any thread, and every method
raises `StoreError` when the disk is full, read-only or not permitted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncbuild.errors import IntegrityError
from asyncbuild.image.digest import DiffId, Digest, InvalidDigest
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.records import dataclass
from asyncbuild.store.cachemounts import CacheMounts
from asyncbuild.store.disk import boot_id, explained, write_atomically
from asyncbuild.store.journal import Doubt, Journal
from asyncbuild.store.layout import Item, Layout
from asyncbuild.store.workplace import Workplace, bury_dead, remove_dead

_FACTS = "facts.json"
_MEND = "mend.json"
_TREE = "fs"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A layer as a directory in overlayfs' lower format, and what is known about it."""

    diff_id: DiffId
    path: Path
    facts: UnpackedFacts


@dataclass(frozen=True, slots=True)
class Mend:
    """A directory that a layer needs on top of certain others: above it, or in its place."""

    path: Path
    replaces: bool


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """How much a store holds; bytes are those of files' contents."""

    blobs: int
    blob_bytes: int
    layers: int
    layer_bytes: int
    mends: int
    cache_mounts: int


class Store:
    """The store at one directory, opened by this process; a context manager that closes it."""

    def __init__(self, layout: Layout, journal: Journal, place: Workplace) -> None:
        self._layout = layout
        self._journal = journal
        self._place = place
        self.root = layout.root

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, boot: str | None = None, form: str = "") -> Self:
        """Open the store at ``path``, making it if it does not exist.

        ``form`` keeps layers, mends and trees apart from those of builders with other rights.
        ``boot`` names the machine's boot; None asks the kernel. What another boot left in doubt is
        verified (blobs: read in full) or dropped before this returns.
        """
        layout = Layout(Path(os.path.abspath(path)), form)
        with explained(layout.root):
            layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            layout.refuse_foreign()
            journal = Journal(layout.root, boot or boot_id())
            with locked(layout.lock):
                layout.prepare()
                bury_dead(layout.tmp)
                place = Workplace(layout.tmp)
                doubt = journal.doubt()
                if doubt is not None:
                    _settle(layout, place, doubt)
                    fresh = partial(place.fresh, "cache-mount")
                    CacheMounts(layout.root, journal, fresh).drop_used_since(doubt.since_ns)
                    journal.settle()
            return cls(layout, journal, place)

    def close(self) -> None:
        """Give up this process's work directories; what was committed stays."""
        with explained(self.root):
            self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Blobs

    def has_blob(self, digest: Digest) -> bool:
        """Whether the blob is here, complete."""
        return self._layout.blob(digest).path.exists()

    def blob_path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self._layout.blob(digest).path

    def blob_size(self, digest: Digest) -> int | None:
        """The blob's bytes; None if it is not here."""
        try:
            return self._layout.blob(digest).path.stat().st_size
        except FileNotFoundError:
            return None

    def read_blob(self, digest: Digest) -> bytes | None:
        """A small blob (manifest, configuration), verified; None if it is missing or damaged."""
        with explained(self.root):
            try:
                data = self._layout.blob(digest).path.read_bytes()
            except FileNotFoundError:
                return None
            return data if digest.matches(data) else None

    def new_blob(self) -> Path:
        """A path at which this process may write a blob; nothing is there yet."""
        return self._place.fresh("blob")

    def commit_blob(self, temporary: Path, digest: Digest, size: int) -> Path:
        """Let the file at ``temporary`` appear as the blob ``digest``.

        Whoever streamed it has verified the digest; only the size is checked here
        (`IntegrityError`). If the blob is here already it is replaced by the same bytes.
        """
        with explained(self.root):
            found = temporary.stat().st_size
            if found != size:
                raise IntegrityError(f"blob {digest} has {found} bytes instead of {size}")
            item = self._layout.blob(digest)
            self._appear(temporary, item)
            return item.path

    def put_blob(self, data: bytes) -> Digest:
        """Keep bytes that are at hand."""
        digest = Digest.of(data)
        if self.read_blob(digest) is None:
            with explained(self.root):
                temporary = self.new_blob()
                temporary.write_bytes(data)
                self._appear(temporary, self._layout.blob(digest))
        return digest

    def remember_diff_id(self, digest: Digest, diff_id: DiffId) -> None:
        """Record that the blob ``digest`` unpacks to ``diff_id``, as verified."""
        with explained(self.root):
            for item in (
                self._layout.diff_id_record(digest),
                self._layout.digest_record(diff_id, digest),
            ):
                if not item.path.exists():
                    item.path.parent.mkdir(mode=0o700, exist_ok=True)
                    with self._journal.announced(item.kind, item.name):
                        temporary = self._place.fresh("record")
                        write_atomically(item.path, str(diff_id).encode(), temporary)

    def diff_id_of(self, digest: Digest) -> DiffId | None:
        """The DiffId of a blob, if it was recorded."""
        try:
            return DiffId.parse(self._layout.diff_id_record(digest).path.read_text())
        except (OSError, InvalidDigest):
            return None

    def digests_of(self, diff_id: DiffId) -> tuple[Digest, ...]:
        """The blobs known to unpack to ``diff_id``, whether they are here or not, sorted."""
        any_digest = Digest(diff_id.algorithm, diff_id.hex)
        directory = self._layout.digest_record(diff_id, any_digest).path.parent
        try:
            return tuple(sorted(Digest.parse(path.name) for path in directory.iterdir()))
        except (FileNotFoundError, InvalidDigest):
            return ()

    # Unpacked layers and mends

    def layer(self, diff_id: DiffId) -> UnpackedLayer | None:
        """The unpacked layer, if it is here."""
        path = self._layout.layer(diff_id).path
        try:
            facts = UnpackedFacts.from_json((path / _FACTS).read_text())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return UnpackedLayer(diff_id, path / _TREE, facts)

    def new_layer(self) -> Path:
        """A work directory for a layer, with an empty ``fs/`` to unpack into."""
        return self._work("layer", _TREE)

    def commit_layer(self, work: Path, diff_id: DiffId, facts: UnpackedFacts) -> UnpackedLayer:
        """Let a verified layer appear; if another process was first, its layer is used."""
        with explained(self.root):
            (work / _FACTS).write_text(facts.to_json())
            item = self._layout.layer(diff_id)
            self._appear(work, item)
        return self.layer(diff_id) or UnpackedLayer(diff_id, item.path / _TREE, facts)

    def mend(self, chain: DiffId) -> Mend | None:
        """What the topmost layer of ``chain`` needs, if it was made before."""
        path = self._layout.mend(chain).path
        try:
            return Mend(path / _TREE, (path / _MEND).read_text() == "replaces")
        except OSError:
            return None

    def new_mend(self) -> Path:
        """A work directory for a mend, with an empty ``fs/``."""
        return self._work("mend", _TREE)

    def commit_mend(self, work: Path, chain: DiffId, *, replaces: bool) -> Mend:
        """Let a mend appear; if another process was first, its mend is used."""
        with explained(self.root):
            (work / _MEND).write_text("replaces" if replaces else "covers")
            item = self._layout.mend(chain)
            self._appear(work, item)
        return self.mend(chain) or Mend(item.path / _TREE, replaces)

    # Results of steps

    def result(self, key: str) -> bytes | None:
        """What was recorded for the cache key ``key`` (64 hexadecimal digits)."""
        try:
            return self._layout.result_record(key).path.read_bytes()
        except OSError:
            return None

    def has_results(self) -> bool:
        """Whether any result was ever recorded here."""
        return any((self.root / "records" / "results").iterdir())

    def put_result(self, key: str, data: bytes) -> None:
        """Record what came of a step; a later record of the same key wins."""
        item = self._layout.result_record(key)
        with explained(self.root), self._journal.announced(item.kind, item.name):
            write_atomically(item.path, data, self._place.fresh("record"))

    def listing(self, chain: DiffId) -> bytes | None:
        """What was recorded of the files that the layers of ``chain`` show together."""
        try:
            return self._layout.listing_record(chain).path.read_bytes()
        except OSError:
            return None

    def put_listing(self, chain: DiffId, data: bytes) -> None:
        """Record a listing (`asyncbuild.layers.listing`)."""
        item = self._layout.listing_record(chain)
        with explained(self.root), self._journal.announced(item.kind, item.name):
            write_atomically(item.path, data, self._place.fresh("record"))

    def put_kept(self, digest: str, data: bytes) -> None:
        """Record an image that could not be pushed."""
        item = self._layout.kept_record(digest)
        with explained(self.root), self._journal.announced(item.kind, item.name):
            write_atomically(item.path, data, self._place.fresh("record"))

    def kept(self) -> tuple[bytes, ...]:
        """The records of images that could not be pushed, the oldest first."""
        with explained(self.root):
            paths = list((self.root / "records" / "kept").iterdir())
            return tuple(
                path.read_bytes() for path in sorted(paths, key=lambda path: path.stat().st_mtime)
            )

    def drop_kept(self, digest: str) -> None:
        """Forget an image that was recorded so."""
        with explained(self.root):
            self._layout.kept_record(digest).path.unlink(missing_ok=True)

    def tree(self, key: str) -> Path | None:
        """What the step with the key ``key`` changed, as an overlay lower directory."""
        path = self._layout.tree(key).path / _TREE
        return path if path.is_dir() else None

    def commit_tree(self, work: Path, key: str) -> None:
        """Let ``work`` (a work directory with ``fs/``) appear as the tree of ``key``."""
        with explained(self.root):
            self._appear(work, self._layout.tree(key))

    # Cache mounts

    @property
    def cache_mounts(self) -> CacheMounts:
        """The directories that RUN --mount=type=cache shares between builds."""
        return CacheMounts(self.root, self._journal, partial(self._place.fresh, "cache-mount"))

    # Work in progress

    def new_work(self, purpose: str, *inside: str) -> Path:
        """A new directory of this process, with the directories ``inside`` (``upper``, ``work``).

        It is on the same file system as layers and mends.
        """
        return self._work(purpose, *inside)

    def discard(self, path: Path) -> None:
        """Give up a path from ``new_…``, at once; its bytes go at the next `sweep`."""
        with explained(self.root):
            self._place.discard(path)

    def sweep(self, check: Callable[[], object] = int) -> int:
        """Remove what was discarded and what dead processes left; slow, for the end of a build.

        ``check`` is called before every directory: what it raises ends this, and the rest is left for
        another time.
        """
        with explained(self.root):
            return remove_dead(self._layout.tmp, check)

    def sync(self) -> None:
        """Write everything committed so far to the disk, so that a crash puts none of it in doubt."""
        with explained(self.root):
            self._journal.sync()

    def statistics(self) -> StoreStatistics:
        """Count what the store holds."""
        with explained(self.root):
            blobs = [item.path.stat().st_size for item in self._layout.items("blob")]
            names = [DiffId.parse(item.name) for item in self._layout.items("layer")]
            layers = [layer for name in names if (layer := self.layer(name)) is not None]
            return StoreStatistics(
                len(blobs),
                sum(blobs),
                len(layers),
                sum(layer.facts.size for layer in layers),
                sum(1 for _ in self._layout.items("mend")),
                sum(1 for _ in self.cache_mounts.instances()),
            )

    def _work(self, purpose: str, *inside: str) -> Path:
        with explained(self.root):
            return self._place.directory(purpose, *inside)

    def _appear(self, made: Path, item: Item) -> None:
        """Rename ``made`` to its place; of two directories with one name the first stays."""
        item.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._journal.announced(item.kind, item.name):
            try:
                made.rename(item.path)
            except OSError:
                if not item.path.is_dir():
                    raise
                self._place.discard(made)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a store: nobody opens it meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _settle(layout: Layout, place: Workplace, doubt: Doubt) -> None:
    """Drop what another boot left in doubt, but for blobs that prove to be whole."""
    for kind in ("blob", "layer", "mend", "tree", "record"):
        for item in layout.items(kind):
            changed = item.path.lstat().st_ctime_ns
            if doubt.covers(kind, item.name, changed) and not (kind == "blob" and _is_whole(item)):
                place.discard(item.path)


def _is_whole(item: Item) -> bool:
    name = Digest.parse(item.name)
    found = hashlib.new(name.algorithm)
    with item.path.open("rb") as file:
        while data := file.read(_CHUNK):
            found.update(data)
    return found.hexdigest() == name.hex
