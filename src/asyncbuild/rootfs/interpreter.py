"""How a child process of this program is started: by this interpreter, or by the copy that it runs from.

A program that runs from a refuge (`asyncbuild.rootfs.refuge`) cannot name its interpreter alone: the kernel
would look for the loader where an image may have put another.
"""

from __future__ import annotations

import sys

_BEFORE: list[str] = []


def python() -> tuple[str, ...]:
    """The words that start Python; its options follow."""
    return (*_BEFORE, sys.executable)


def start_by(before: list[str]) -> None:
    """From now on start it by these words: a loader and its options, up to the interpreter's path."""
    _BEFORE[:] = before
