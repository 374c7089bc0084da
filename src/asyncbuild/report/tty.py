"""The live view on a terminal: what runs is drawn again and again, what is over scrolls up.

Each drawing is one write: the cursor is hidden, moved up over the last drawing, the rest of the screen
is erased, then the lines come, then the cursor is shown. So a process that is killed leaves the terminal
usable. Only these sequences are used (ECMA-48): CUU, ED, SGR, and DECTCEM for the cursor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from asyncbuild.report.escape import cells
from asyncbuild.report.events import Event
from asyncbuild.report.stream import Output
from asyncbuild.report.view import Line, Tone, View

Size = Callable[[], tuple[int, int]]
"""Gives the terminal's columns and rows, as they are now."""

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_ERASE_BELOW = "\x1b[J"
_PLAIN = "\x1b[0m"
_COLOURS = {
    Tone.GOOD: "\x1b[34m",
    Tone.BAD: "\x1b[31m",
    Tone.WARNING: "\x1b[33m",
    Tone.FAINT: "\x1b[2m",
}


class TtyReporter:
    """Draws on ``stream`` at each `tick` and at `close`; ``colour`` is False for NO_COLOR."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float], size: Size, *, colour: bool = True
    ) -> None:
        self._output = Output(stream)
        self._clock = clock
        self._size = size
        self._colour = colour
        self._view = View(clock())
        self._drawn: list[int] = []  # the columns that each line of the last drawing took
        self._closed = False

    def emit(self, event: Event) -> None:
        """Take note; the next tick draws it."""
        self._view.take(event, self._clock())

    def tick(self) -> None:
        """Draw the view as it is now."""
        if not self._closed:
            columns, rows = self._size()
            self._draw(columns, self._view.frame(self._clock(), max(rows - 1, 1)))

    def close(self) -> None:
        """Erase the live part and leave the lines that stay."""
        if not self._closed:
            self._draw(self._size()[0], [])
            self._closed = True

    def _draw(self, columns: int, live: list[Line]) -> None:
        finished = self._view.take_finished()
        if not (finished or live or self._drawn):
            return
        # The last column stays empty: some terminals wrap when it is written.
        width = max(columns - 1, 10)
        texts = [line.fit(width) for line in live]
        parts = [_HIDE, self._erase(columns)]
        for line in finished:
            # A line without a right part may be longer than the screen is wide: nothing is cut off it.
            text = line.fit(width) if line.right else line.text
            parts.append(self._painted(text, line.tone))
        parts += [self._painted(text, line.tone) for text, line in zip(texts, live, strict=True)]
        parts.append(_SHOW)
        self._output.write("".join(parts))
        self._drawn = [cells(text) for text in texts]

    def _erase(self, columns: int) -> str:
        """Go to the beginning of the last drawing and erase it.

        A terminal that became narrower has broken its lines anew: each takes more rows now.
        """
        rows = sum(max(1, -(-taken // max(columns, 1))) for taken in self._drawn)
        return f"\r\x1b[{rows}A{_ERASE_BELOW}" if rows else ""

    def _painted(self, text: str, tone: Tone) -> str:
        colour = _COLOURS.get(tone, "") if self._colour else ""
        return f"{colour}{text}{_PLAIN}\n" if colour else f"{text}\n"
