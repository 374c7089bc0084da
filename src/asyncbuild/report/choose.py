"""Which form of progress a person gets: what they asked for, else what their terminal can show."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TextIO

from asyncbuild.errors import UsageError
from asyncbuild.report.events import Reporter
from asyncbuild.report.plain import PlainReporter
from asyncbuild.report.quiet import QuietReporter
from asyncbuild.report.rawjson import RawJsonReporter
from asyncbuild.report.tty import TtyReporter


class ProgressMode(Enum):
    """The values of ``--progress``, which are buildx's."""

    AUTO = "auto"
    PLAIN = "plain"
    TTY = "tty"
    QUIET = "quiet"
    RAWJSON = "rawjson"

    @classmethod
    def parse(cls, text: str) -> ProgressMode:
        """The mode of that name; `UsageError` otherwise."""
        try:
            return cls(text)
        except ValueError:
            names = ", ".join(mode.value for mode in cls)
            raise UsageError(f"progress is {text!r}; it must be one of {names}") from None


def make_reporter(
    mode: ProgressMode,
    stream: TextIO,
    environ: Mapping[str, str],
    clock: Callable[[], float],
) -> Reporter:
    """The reporter for ``mode`` that writes to ``stream``.

    ``auto`` asks BUILDKIT_PROGRESS first, then is ``tty`` on a terminal and ``plain`` elsewhere. ``tty``
    becomes ``plain`` where there is no terminal or a dumb one. NO_COLOR (any value but none) takes the
    colours away. Raises `UsageError` for a BUILDKIT_PROGRESS that is no mode.
    """
    if mode is ProgressMode.AUTO and environ.get("BUILDKIT_PROGRESS"):
        mode = ProgressMode.parse(environ["BUILDKIT_PROGRESS"])
    match mode:
        case ProgressMode.QUIET:
            return QuietReporter(stream)
        case ProgressMode.RAWJSON:
            return RawJsonReporter(stream, clock)
        case ProgressMode.PLAIN:
            return PlainReporter(stream, clock)
    if not stream.isatty() or environ.get("TERM") == "dumb":
        return PlainReporter(stream, clock)
    colour = not environ.get("NO_COLOR")

    def size() -> tuple[int, int]:
        try:
            found = os.get_terminal_size(stream.fileno())
        except OSError:
            return 80, 24
        # A terminal that does not know its size (a serial line, some CI) says 0.
        return found.columns or 80, found.lines or 24

    return TtyReporter(stream, clock, size, colour=colour)
