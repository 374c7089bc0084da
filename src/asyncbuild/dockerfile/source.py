"""A Dockerfile's text as errors see it: lines, places and excerpts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from asyncbuild.errors import DockerfileError, SourceLocation
from asyncbuild.records import dataclass

_EXCERPT_LINES = 12
_SURROGATES = re.compile("[\ud800-\udfff]")


class Problem(ValueError):
    """Something wrong inside one instruction; `SourceText.error` gives it its place.

    ``near`` is the piece of text that is meant, if there is one: the error then points at it.
    """

    def __init__(self, message: str, *, hint: str | None = None, near: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.near = near


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning: ``rule`` is the name that BuildKit's build checks give to it, or ours."""

    rule: str
    message: str
    location: SourceLocation | None = None


@dataclass(frozen=True, slots=True)
class SourceText:
    """The lines of one Dockerfile, each with its own line ending, as it stands in the file.

    ``stage`` is the label of the stage that is being read; places say it.
    """

    file: str
    lines: tuple[str, ...]
    stage: str = ""

    @classmethod
    def read(cls, text: bytes | str, file: str) -> SourceText:
        """Split at newlines only. Bytes that are not UTF-8 become surrogates, refused where they matter."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        pieces = text.removeprefix("\ufeff").split("\n")
        ended = tuple(f"{piece}\n" for piece in pieces[:-1])
        return cls(file, (*ended, pieces[-1]) if pieces[-1] else ended)

    def location(self, first: int, last: int, column: int = 1) -> SourceLocation:
        """The place of lines ``first`` to ``last`` (1-based, inclusive), with a printable excerpt."""
        shown = self.lines[first - 1 : min(last, first + _EXCERPT_LINES - 1)]
        excerpt = tuple(printable(line.rstrip("\r\n")) for line in shown)
        return SourceLocation(self.file, first, max(first, last), column, excerpt, self.stage)

    def find(self, near: str, first: int, last: int) -> SourceLocation:
        """The place of ``near`` in lines ``first`` to ``last``; all of these lines if it is not there."""
        for number in range(first, last + 1) if near else ():
            column = self.lines[number - 1].find(near)
            if column >= 0:
                return self.location(number, number, column + 1)
        indent = (
            len(self.lines[first - 1]) - len(self.lines[first - 1].lstrip()) if self.lines else 0
        )
        return self.location(first, last, indent + 1)

    def error(self, problem: ValueError, first: int, last: int) -> DockerfileError:
        """``problem`` as an error that says where it is."""
        near = getattr(problem, "near", "")
        hint = getattr(problem, "hint", None)
        return DockerfileError(
            printable(str(problem)), hint=hint, location=self.find(near, first, last)
        )

    def check_characters(self, numbers: Iterable[int]) -> None:
        """Refuse bytes that are not UTF-8, and NUL, in the lines with these ``numbers``."""
        for number in numbers:
            line = self.lines[number - 1]
            if "\0" not in line and line.isascii():
                continue
            for column, character in enumerate(line, 1):
                if character == "\0" or _SURROGATES.match(character):
                    what = "a NUL character" if character == "\0" else "bytes that are not UTF-8"
                    place = self.location(number, number, column)
                    raise DockerfileError(f"an instruction contains {what}", location=place)


def printable(text: str) -> str:
    """``text`` with lone surrogates, which no output can encode, replaced."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)
