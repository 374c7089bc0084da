"""Paths of WORKDIR, COPY and ADD, as BuildKit makes them absolute (Linux rules)."""

from __future__ import annotations

import posixpath


def absolute_workdir(current: str, path: str) -> str:
    """The directory that ``WORKDIR path`` names; an absolute path stays as it is written."""
    parent = current if current.startswith("/") else f"/{current}"
    if path.startswith("/"):
        return path
    return _clean(f"{parent}/{path}")


def absolute_destination(current: str, path: str) -> str:
    """Where COPY and ADD put things; what ends in ``/`` or ``/.``, or is ``.``, stays a directory."""
    if path in ("", "."):
        path = "./"
    result = absolute_workdir(current, path)
    if path.endswith("/") and not result.endswith("/"):
        return f"{result}/"
    if path.endswith("/.") and not result.endswith("/."):
        return f"{result.rstrip('/')}/."
    return result


def _clean(path: str) -> str:
    """Go's path.Clean of an absolute path (normpath would keep two leading slashes)."""
    return "/" + posixpath.normpath(path).lstrip("/")
