"""Options of a build that speak of caches, as argparse leaves them."""

from __future__ import annotations

import argparse


def given(**more: object) -> argparse.Namespace:
    """All of them as if they were not there, but for ``more``."""
    lists = dict.fromkeys(("cache_from", "cache_to", "no_cache_filter", "tag"), ())
    texts = dict.fromkeys(("cache_repo", "cache_ttl"), "")
    return argparse.Namespace(**{**lists, **texts, "no_cache": False, **more})
