r"""Word expansion: quotes, escapes and ``$NAME`` as a Dockerfile knows them.

The rules are those of BuildKit's shell lexer, which resembles sh but is not sh:

1. ``'…'`` is literal. In ``"…"`` the escape character protects only ``"``, ``$`` and itself.
2. Outside quotes the escape character protects whatever follows it; at the very end it vanishes.
3. ``$NAME``, ``${NAME}`` and the modifiers ``:-`` ``-`` ``:+`` ``+`` ``:?`` ``?`` ``#`` ``##`` ``%``
   ``%%`` ``/`` ``//``; their operands are expanded in turn. An unset variable is empty.
4. ``$1``, ``$@`` and the other special parameters are never set. ``$`` before anything else is a ``$``.
5. Patterns of ``#``, ``%`` and ``/`` know ``*`` and ``?``, and no brackets (`patterns`).

Nothing here knows a Dockerfile's lines: a failure is a `WordError`, placed by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from asyncbuild.dockerfile.patterns import ShellPattern, Steps, TooManySteps
from asyncbuild.records import dataclass

SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The characters that Unicode calls white space (str.isspace adds four control characters)."""

_SPECIAL_PARAMETERS = frozenset("@*#?-$!0")
_MODIFIERS = frozenset("+-?#%")
_SPACE_RUN = re.compile(f"[{SPACES}]+")
_PLAIN = {mark: re.compile(rf"[^$<'\"}}/{re.escape(mark)}]+") for mark in "\\`"}
"""Runs of characters that mean nothing, by escape character; ``}`` and ``/`` may end an operand."""


class WordError(ValueError):
    """A word that cannot be expanded; the message is for people and names no place."""


GROWTH_LIMIT = 1 << 20
"""Characters that substitutions may add to one word: eight times what a process takes as one variable."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a word became, and the variables it named: those that were set, and those that were not."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    unmatched: frozenset[str]


@dataclass(frozen=True, slots=True)
class WordRules:
    """How to read a word. The defaults are those of an instruction's argument.

    ``escape`` is a backslash or a backtick.
    ``keep_quotes`` and ``keep_escapes`` leave the marks in the result; ``quotes_are_text`` gives them no
    meaning at all (heredoc bodies); ``keep_unset`` leaves an unset ``$NAME`` as it was written.
    """

    escape: str = "\\"
    keep_quotes: bool = False
    keep_escapes: bool = False
    quotes_are_text: bool = False
    keep_unset: bool = False


def expand_word(
    word: str, environment: Mapping[str, str], rules: WordRules | None = None
) -> Expansion:
    """Expand ``word``; `Expansion.words` is the result split at unquoted white space.

    Raises `WordError` for an unclosed quote or brace, an unknown modifier, or a failed ``:?``.
    """
    lexer = _Lexer(word, environment, rules or WordRules())
    try:
        text, words = lexer.read_until("", keep_escapes=lexer.rules.keep_escapes)
    except RecursionError:
        raise WordError("substitutions are nested too deeply") from None
    return Expansion(text, tuple(words), frozenset(lexer.used), frozenset(lexer.unmatched))


class _Splitter:
    """Collects characters into words; quoted or escaped characters never end a word."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._current: list[str] = []

    def add(self, text: str) -> None:
        first, *others = _SPACE_RUN.split(text)
        self.add_raw(first)
        for piece in others:
            self.finish()
            self.add_raw(piece)

    def add_raw(self, text: str) -> None:
        if text:
            self._current.append(text)

    def finish(self) -> list[str]:
        if self._current:
            self.words.append("".join(self._current))
            self._current = []
        return self.words


class _Lexer:
    """One pass over one word."""

    def __init__(self, source: str, environment: Mapping[str, str], rules: WordRules) -> None:
        self.source = source
        self.position = 0
        self.environment = environment
        self.rules = rules
        self.used: set[str] = set()
        self.unmatched: set[str] = set()
        self.grown = 0

    def peek(self) -> str:
        """The next character, or the empty string at the end."""
        return self.source[self.position : self.position + 1]

    def take(self) -> str:
        """Consume and return the next character, or the empty string at the end."""
        character = self.peek()
        self.position += 1 if character else 0
        return character

    def read_until(self, stop: str, *, keep_escapes: bool) -> tuple[str, list[str]]:
        """Expand up to ``stop`` (consumed) or, for an empty ``stop``, to the end."""
        result: list[str] = []
        splitter = _Splitter()
        while character := self.peek():
            if stop and character == stop:
                self.take()
                return "".join(result), splitter.finish()
            piece, raw = self._read_piece(character, keep_escapes=keep_escapes)
            result.append(piece)
            (splitter.add_raw if raw else splitter.add)(piece)
        if stop:
            raise WordError(f"missing {stop!r} in a substitution")
        return "".join(result), splitter.finish()

    def _read_piece(self, character: str, *, keep_escapes: bool) -> tuple[str, bool]:
        """One expanded piece, and whether its white space is protected from splitting."""
        plain = _PLAIN[self.rules.escape].match(self.source, self.position)
        if plain is not None:
            self.position = plain.end()
            return plain[0], False
        if character == "$":
            return self._substituted(), False
        if character == "<":
            return self._read_less_than(), True
        if character in ("'", '"') and not self.rules.quotes_are_text:
            text = (
                self._read_single()
                if character == "'"
                else self._read_double(keep_escapes=keep_escapes)
            )
            return text, True
        self.take()
        if character != self.rules.escape:
            return character, False
        kept = character if keep_escapes else ""
        return kept + self.take(), True

    def _read_less_than(self) -> str:
        """``<``, or ``<<`` with the blanks after it: a heredoc's word may stand apart from its mark."""
        self.take()
        if self.peek() != "<":
            return "<"
        self.take()
        start = self.position
        while self.peek() and self.peek() in "\t\r ":
            self.take()
        return "<<" + self.source[start : self.position]

    def _read_single(self) -> str:
        self.take()
        end = self.source.find("'", self.position)
        if end < 0:
            raise WordError("a single quote is never closed")
        text = self.source[self.position : end]
        self.position = end + 1
        return f"'{text}'" if self.rules.keep_quotes else text

    def _read_double(self, *, keep_escapes: bool) -> str:
        self.take()
        quote = '"' if self.rules.keep_quotes else ""
        result = [quote]
        while character := self.peek():
            if character == '"':
                self.take()
                return "".join([*result, quote])
            if character == "$":
                result.append(self._substituted())
                continue
            self.take()
            if character == self.rules.escape:
                following = self.peek()
                if not following:
                    continue
                if following in ('"', "$", self.rules.escape):
                    kept = character if keep_escapes else ""
                    character = kept + self.take()
            result.append(character)
        raise WordError("a double quote is never closed")

    def _substituted(self) -> str:
        """A substitution, counted: a line that doubles the one before it is stopped (`GROWTH_LIMIT`)."""
        text = self._read_dollar()
        self.grown += len(text)
        if self.grown > GROWTH_LIMIT:
            raise WordError(f"its variables are more than {GROWTH_LIMIT} characters together")
        return text

    def _read_dollar(self) -> str:
        """A substitution; the position is at its ``$``."""
        self.take()
        if self.peek() == "{":
            self.take()
            return self._read_braces()
        name = self._read_name()
        if not name:
            return "$"
        value = self._look_up(name)
        return f"${name}" if value is None and self.rules.keep_unset else value or ""

    def _read_name(self) -> str:
        """A variable's name, a run of digits, or one special parameter; empty if there is none."""
        first = self.peek()
        start = self.position
        if first.isdecimal():
            while self.peek().isdecimal():
                self.take()
        elif first in _SPECIAL_PARAMETERS and first:
            self.take()
        else:
            while (c := self.peek()) and (c == "_" or c.isalpha() or c.isdecimal()):
                self.take()
        return self.source[start : self.position]

    def _look_up(self, name: str) -> str | None:
        value = self.environment.get(name)
        (self.unmatched if value is None else self.used).add(name)
        return value

    def _read_braces(self) -> str:
        """The rest of ``${…}``; rule 3 of the module."""
        first = self.peek()
        if not first:
            raise WordError("missing '}' in a substitution")
        if first in "{}:":
            raise WordError(f"bad substitution: a variable's name cannot begin with {first!r}")
        name = self._read_name()
        mark = self.take()
        if mark == "}":
            value = self._look_up(name)
            return f"${{{name}}}" if value is None and self.rules.keep_unset else value or ""
        if mark == "/":
            return self._replace(name)
        colon = mark == ":"
        mark = self.take() if colon else mark
        return self._modify(name, ":" if colon else "", mark)

    def _modify(self, name: str, colon: str, mark: str) -> str:
        if not mark:
            raise WordError("missing '}' in a substitution")
        if mark not in _MODIFIERS or (colon and mark in "#%"):
            raise WordError(f"unsupported modifier ({colon}{mark}) in a substitution")
        operand, _ = self.read_until("}", keep_escapes=mark in "#%")
        value = self._look_up(name)
        if value is None and self.rules.keep_unset:
            return f"${{{name}{colon}{mark}{operand}}}"
        absent = value is None or (bool(colon) and value == "")
        if mark == "-":
            return operand if absent else value or ""
        if mark == "+":
            return "" if absent else operand
        if mark == "?":
            if absent:
                state = "unset" if value is None else "empty"
                raise WordError(f"{name}: {operand or f'is not allowed to be {state}'}")
            return value or ""
        longest = operand.startswith(mark)
        pattern = _pattern(operand[1:] if longest else operand)
        if mark == "#":
            return _without_prefix(pattern, value or "", longest=longest)
        return _without_prefix(pattern.reversed(), (value or "")[::-1], longest=longest)[::-1]

    def _replace(self, name: str) -> str:
        """``${name/pattern/text}`` and ``${name//pattern/text}``."""
        every = self.peek() == "/"
        if every:
            self.take()
        # Both operands keep their escapes: a pattern gives them a meaning of its own.
        pattern, _ = self.read_until("/", keep_escapes=True)
        replacement, _ = self.read_until("}", keep_escapes=True)
        value = self._look_up(name)
        if value is None and self.rules.keep_unset:
            return f"${{{name}{'//' if every else '/'}{pattern}/{replacement}}}"
        return _substitute(_pattern(pattern), value or "", replacement, every=every)


def _pattern(text: str) -> ShellPattern:
    try:
        return ShellPattern.parse(text)
    except ValueError as problem:
        raise WordError(str(problem)) from None


def _without_prefix(pattern: ShellPattern, value: str, *, longest: bool) -> str:
    try:
        end = pattern.end(value, Steps(), longest=longest)
    except TooManySteps as problem:
        raise WordError(str(problem)) from None
    return value if end is None else value[end:]


def _substitute(pattern: ShellPattern, value: str, replacement: str, *, every: bool) -> str:
    """Replace the first or every match."""
    plain = pattern.plain
    if plain is not None:
        times = value.count(plain) if every else 1
        _check_growth(times * len(replacement))
        return value.replace(plain, replacement, times)
    pieces: list[str] = []
    done = 0
    try:
        for start, end in pattern.matches(value, Steps()):
            pieces += [value[done:start], replacement]
            _check_growth(len(pieces) // 2 * len(replacement))
            done = end
            if not every:
                break
    except TooManySteps as problem:
        raise WordError(str(problem)) from None
    return "".join([*pieces, value[done:]])


def _check_growth(characters: int) -> None:
    if characters > GROWTH_LIMIT:
        raise WordError(f"a replacement makes more than {GROWTH_LIMIT} characters")
