"""What registries hold after a tool's first build of a job, kept from one bench to the next.

A cached run starts from it. It is made again when anything that it depends on is another: the tool (for ours its
sources), the job, the bases, the tool's command line, the registry's address.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from perf.bases import cache_directory
from perf.farsite import copy_of_storage

_HERE = Path(__file__).resolve().parent


def fingerprint(*words: str) -> str:
    """Of the jobs and the bases, and of ``words``."""
    summed = hashlib.sha256("\0".join(words).encode())
    for path in (_HERE / "jobs.py", cache_directory() / "bases.json"):
        summed.update(path.read_bytes())
    return summed.hexdigest()[:16]


def sources_digest(root: Path) -> str:
    """Of every Python file below ``root``, by name and content."""
    summed = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        summed.update(f"{path.relative_to(root)}\0".encode())
        summed.update(hashlib.sha256(path.read_bytes()).digest())
    return summed.hexdigest()


def prepared(name: str, key: str, make: Callable[[], Path]) -> Path:
    """The storage that is kept under ``name`` for ``key``; ``make`` says what to keep where there is none.

    What was kept under the same name for another key is removed.
    """
    kept = cache_directory() / "prepared" / name / key
    if kept.exists():
        return kept
    shutil.rmtree(kept.parent, ignore_errors=True)
    partial = kept.with_suffix(".partial")
    copy_of_storage(make(), partial)
    partial.rename(kept)
    return kept
