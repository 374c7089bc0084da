r"""How the rest of an instruction's line is taken apart: keyword, flags, words, JSON.

The rules are BuildKit's, quirks included:

1. A keyword ends at the first blank; after it come flags, as long as words begin with ``--``. A lone
   ``--`` ends them. Quotes and escapes in a flag are removed at once.
2. What then begins with ``[`` and is valid JSON is the exec form; a JSON array with anything but strings
   in it is an error; anything that is not valid JSON is the shell form, with no complaint.
3. ENV, LABEL and ARG are split at blanks outside quotes, and keep quotes and escapes for the expansion.
4. COPY, ADD, EXPOSE, FROM and VOLUME are split at blanks, whatever the quotes say.
"""

from __future__ import annotations

import json
import re

from asyncbuild.dockerfile.source import Problem
from asyncbuild.dockerfile.words import SPACES
from asyncbuild.records import dataclass

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_SPACE = re.compile(r"[\t\n\v\f\r ]+")


@dataclass(frozen=True, slots=True)
class Command:
    """One logical line, taken apart: ``keyword`` as written, raw ``flags``, and the ``rest``."""

    keyword: str
    flags: tuple[str, ...]
    rest: str


def split_command(line: str, escape: str) -> Command:
    """Take a logical line apart (rule 1)."""
    keyword, *tail = _BLANKS.split(line.strip(SPACES), maxsplit=1)
    flags, rest = _FlagReader(tail[0] if tail else "", escape).read()
    return Command(keyword, tuple(flags), rest.strip(SPACES))


def split_blanks(rest: str) -> tuple[str, ...]:
    """Split at blanks, with no regard to quotes (rule 4)."""
    return tuple(_BLANKS.split(rest)) if rest else ()


def split_once(rest: str) -> tuple[str, str | None]:
    """The first word and what follows the blanks after it (None if there are none)."""
    first, *tail = _BLANKS.split(rest, maxsplit=1)
    return first, tail[0] if tail else None


def split_space(rest: str) -> list[str]:
    """The first word and, if there is more, what follows the white space after it."""
    return _SPACE.split(rest, maxsplit=1) if rest else []


def json_words(rest: str) -> tuple[str, ...] | None:
    """The strings of a JSON array, or None if ``rest`` is not one (rule 2)."""
    if not rest.lstrip(SPACES).startswith("["):
        return None
    try:
        value = json.loads(rest, parse_constant=_not_json, parse_int=float)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise Problem("a JSON array of arguments holds strings only", near="[")
    # Go decodes an escaped lone surrogate as U+FFFD.
    return tuple(re.sub("[\ud800-\udfff]", "\ufffd", item) for item in value)


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class _FlagReader:
    """Reads the flags in front of an instruction's arguments; each character is looked at once."""

    def __init__(self, text: str, escape: str) -> None:
        self.text = text
        self.escape = escape
        self.position = 0

    def read(self) -> tuple[list[str], str]:
        """The flags, and the text after them."""
        flags: list[str] = []
        while True:
            rest = self.text[self.position :].lstrip(SPACES)
            self.position = len(self.text) - len(rest)
            if not rest.startswith("--"):
                return flags, rest
            word = self._read_word()
            if word == "--":
                return flags, self.text[self.position :]
            flags.append(word)

    def _read_word(self) -> str:
        word: list[str] = []
        quote = ""
        while self.position < len(self.text):
            character = self.text[self.position]
            if not quote and character in SPACES:
                break
            self.position += 1
            if character == quote:
                quote = ""
            elif not quote and character in "'\"":
                quote = character
            elif character == self.escape:
                word.append(self.text[self.position : self.position + 1])
                self.position += 1
            else:
                word.append(character)
        return "".join(word)


def split_words(rest: str, escape: str) -> tuple[str, ...]:
    """Split at white space outside quotes; quotes and escapes stay in the words (rule 3)."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    position = 0
    while position < len(rest):
        character = rest[position]
        position += 1
        if not quote and character in SPACES:
            if word:
                words.append("".join(word))
                word = []
            continue
        if character == escape and quote != "'":
            if position == len(rest):
                break  # an escape character at the very end vanishes
            word += (character, rest[position])
            position += 1
            continue
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        word.append(character)
    return (*words, "".join(word)) if word else tuple(words)
