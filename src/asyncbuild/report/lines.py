"""A command's output, cut into the lines that a person reads.

Rules, the same however the bytes are cut on their way:

1. Bytes are UTF-8; what is not becomes U+FFFD.
2. A line ends at a newline, or after `LONGEST` characters.
3. A carriage return that no newline follows starts the line anew: of a progress bar the last state stays.
4. Escape sequences and control characters are left out (`escape.stripped`).
"""

from __future__ import annotations

import codecs
import re

from asyncbuild.report.escape import stripped

LONGEST = 16384
_PARTS = re.compile(r"[\r\n]|[^\r\n]+")


class LineJoiner:
    """Takes the bytes of one stream and gives its lines."""

    __slots__ = ("_decoder", "_line", "_returned")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._returned = False

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes."""
        return self._take(self._decoder.decode(data))

    def finish(self) -> list[str]:
        """The line that no newline ended, if there is one."""
        lines = self._take(self._decoder.decode(b"", final=True))
        if self._line:
            lines.append(stripped(self._line))
        self._line, self._returned = "", False
        return lines

    @property
    def pending(self) -> str:
        """The line so far that is not ended yet (the last state of a progress bar)."""
        return stripped(self._line)

    def _take(self, text: str) -> list[str]:
        lines: list[str] = []
        for part in _PARTS.findall(text):
            if part == "\n":
                lines.append(stripped(self._line))
                self._line, self._returned = "", False
            elif part == "\r":
                self._returned = True
            else:
                self._line = part if self._returned else self._line + part
                self._returned = False
                while len(self._line) > LONGEST:
                    lines.append(stripped(self._line[:LONGEST]))
                    self._line = self._line[LONGEST:]
        return lines
