"""Scratch space for property tests, where a fixture would last for all examples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.registry import remove_tree


@contextmanager
def scratch() -> Iterator[Path]:
    """A fresh directory in memory, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="asyncbuild-test-", dir="/dev/shm"))
    try:
        yield path
    finally:
        remove_tree(path)
