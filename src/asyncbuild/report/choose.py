"""Which form of progress a person gets: what they asked for, else what their terminal can show.

Of the reporters the one that is used is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TextIO

from asyncbuild.errors import UsageError
from asyncbuild.report.events import Reporter


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
            from asyncbuild.report.quiet import QuietReporter  # noqa: PLC0415 - see above

            return QuietReporter(stream)
        case ProgressMode.RAWJSON:
            from asyncbuild.report.rawjson import RawJsonReporter  # noqa: PLC0415

            return RawJsonReporter(stream, clock)
    if mode is ProgressMode.PLAIN or not stream.isatty() or environ.get("TERM") == "dumb":
        from asyncbuild.report.plain import PlainReporter  # noqa: PLC0415

        return PlainReporter(stream, clock)
    from asyncbuild.report.tty import TtyReporter  # noqa: PLC0415

    colour = not environ.get("NO_COLOR")

    def size() -> tuple[int, int]:
        try:
            found = os.get_terminal_size(stream.fileno())
        except OSError:
            return 80, 24
        # A terminal that does not know its size (a serial line, some CI) says 0.
        return found.columns or 80, found.lines or 24

    return TtyReporter(stream, clock, size, colour=colour)
