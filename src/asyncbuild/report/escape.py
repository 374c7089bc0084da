"""Text from outside, made safe to show: it can neither forge a line nor drive the terminal.

Two ways: `printable` for names and messages, where nothing may be hidden, and `stripped` for the lines
of a command, where colours and cursor movements are noise.
"""

from __future__ import annotations

import re
import unicodedata

_SEQUENCES = re.compile(
    r"""
    (?:\x1b\[|\x9b) [0-?]* [ -/]* [@-~]           # CSI: colours, cursor, erasing (ECMA-48, 5.4)
  | (?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])       # OSC, DCS, SOS, PM, APC: up to their terminator
    [^\x1b\x07\x9c]* (?:\x07|\x1b\\|\x9c)
  | \x1b [ -/]* [0-~]                             # the other escape sequences (ECMA-35, 13.2)
    """,
    re.VERBOSE,
)
_CONTROLS = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_CONTINUED = re.compile(r"\\[ \t]*\r?\n")


def printable(text: str) -> str:
    r"""``text`` on one line with every character visible: a newline shows as ``\n``, ESC as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def stripped(text: str) -> str:
    """``text`` without escape sequences and control characters; tabs stay."""
    if text.isprintable():
        return text
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


def one_line(text: str, limit: int = 400) -> str:
    """An instruction or a message on one line of at most ``limit`` characters.

    White space is folded, and the backslash of a continued line with it.
    """
    folded = printable(" ".join(_CONTINUED.sub(" ", text).split()))
    return folded if len(folded) <= limit else f"{folded[: limit - 3]}..."


def cells(text: str) -> int:
    """How many columns ``text`` takes on a terminal (printable text without tabs)."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(letter) for letter in text)


def _cells_of(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def clip(text: str, width: int) -> str:
    """The longest beginning of ``text`` that takes at most ``width`` columns."""
    if cells(text) <= width:
        return text
    used = 0
    for place, letter in enumerate(text):
        used += _cells_of(letter)
        if used > width:
            return text[:place]
    return text
