"""What a local cache directory holds besides images, and less of it: ``asyncbuild cache ls|prune DIR``.

A record goes first; blobs that nothing names go with the next prune of the layout, but for the youngest: a
build that counts on one of them finds it missing and executes the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from asyncbuild.cache.results import CachedResult, DamagedResult
from asyncbuild.cache.upkeep import CacheEntry, Kind
from asyncbuild.errors import StoreError
from asyncbuild.image.digest import Digest


def list_results(path: Path) -> tuple[CacheEntry, ...]:
    """The results and the listings in the directory at ``path``, the oldest first. Raises `StoreError`.

    The age of a record that cannot be read is not known.
    """
    try:
        found = [*_results(path / "results"), *_listings(path / "listings")]
    except OSError as error:
        raise StoreError.of(f"the cache directory {path} cannot be read", error) from error
    return tuple(sorted(found, key=lambda entry: (entry.written or 0, entry.name)))


def remove_results(path: Path, going: Iterable[CacheEntry]) -> None:
    """Remove their records. Raises `StoreError`."""
    try:
        for entry in going:
            steps = entry.kind is Kind.STEP
            record = f"results/{entry.name}.json" if steps else f"listings/{entry.name}"
            (path / record).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError.of(f"the cache directory {path} cannot be written", error) from error


def _results(directory: Path) -> Iterator[CacheEntry]:
    for record in _files(directory, ".json"):
        raw = record.read_bytes()
        about, size, written = "", 0, None
        with contextlib.suppress(DamagedResult):
            result = CachedResult.decode(raw)
            layer = result.layer.descriptor
            about, size, written = result.step, layer.size if layer else 0, result.written
        name = record.name.removesuffix(".json")
        yield CacheEntry(Kind.STEP, name, about, (), size, written, Digest.of(raw))


def _listings(directory: Path) -> Iterator[CacheEntry]:
    for file in _files(directory, ""):
        raw, written = file.read_bytes(), int(file.stat().st_mtime)
        yield CacheEntry(Kind.LISTING, file.name, "", (), len(raw), written, Digest.of(raw))


def _files(directory: Path, suffix: str) -> list[Path]:
    if not directory.is_dir():
        return []
    names = [path for path in directory.iterdir() if path.name.endswith(suffix)]
    return [path for path in names if not path.name.startswith(".") and path.is_file()]
