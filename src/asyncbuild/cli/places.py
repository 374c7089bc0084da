"""Where things are on a user's machine, for commands that do not build."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def store_directory(named: str | None, environ: Mapping[str, str]) -> Path:
    """``--store``, or ``asyncbuild`` in the user's cache directory (XDG base directories)."""
    if named:
        return Path(named)
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "asyncbuild"
