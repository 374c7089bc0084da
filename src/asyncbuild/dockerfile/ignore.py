r""".dockerignore: which paths of a context are left out.

The meaning is that of moby's patternmatcher:

1. A line that begins with ``#`` is a comment; blanks around a pattern, a leading ``/`` and a trailing
   ``/`` do not count; ``.``, ``..`` and double slashes are resolved.
2. ``*`` and ``?`` match within a path component, ``**`` any number of components, ``[…]`` one character.
3. A pattern matches a path if it matches the path or one of the directories above it.
4. The last pattern that matches decides; ``!`` before a pattern re-includes. ``.`` is never excluded.
5. ``**x`` at the beginning, with no other wildcard behind it, matches every path that ends in ``x``.

Where moby hands text to its regular expressions unescaped (``^``, ``\d``, ``[[:alpha:]]``), we take the
characters for what they are.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from asyncbuild.dockerfile.words import SPACES
from asyncbuild.errors import InputError, SourceLocation
from asyncbuild.records import dataclass

_WILD = frozenset("*?[\\")
_ANYTHING = "(?s:.*)"
_ANY_DIRECTORIES = "(?s:.*/)?"
_ANY_NAME = "[^/]*"
_WILDCARDS = frozenset([_ANYTHING, _ANY_DIRECTORIES, _ANY_NAME])


class InvalidPattern(ValueError):
    """A pattern with a bracket or a backslash that nothing closes, or an empty exception."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One cleaned pattern; ``tokens`` joined are a regular expression for a whole path."""

    text: str
    negated: bool
    tokens: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        return not _WILD & set(self.text)

    @property
    def basename(self) -> str | None:
        """The one component that ``**/component`` names, if the pattern is of this form."""
        tail = self.text.removeprefix("**/")
        plain = tail != self.text and "/" not in tail and "**" not in tail
        return tail if plain and not {"[", "\\"} & set(tail) else None

    def may_match_below(self, directory: str) -> bool:
        """Whether some path below ``directory`` may match; True where that is hard to tell."""
        above = directory.split("/")
        components = self.text.split("/")
        for place, component in enumerate(components):
            if "**" in component or {"[", "\\"} & set(component):
                return True
            if place == len(above):
                return True
            if not re.fullmatch("".join(_translate(component)), above[place]):
                return False
        return False


class _Index:
    """Finds the last block with a pattern that matches a text, in one look-up and a search or two.

    A block is a run of neighbouring patterns of the same sign: within it, order means nothing. One
    expression asks whether anything matches at all (most often nothing does); the other lists the blocks
    from the last to the first, each in a group of its own.
    """

    def __init__(self, patterns: Iterable[tuple[int, str, tuple[str, ...]]]) -> None:
        """From (block, text, tokens), blocks ascending."""
        self._exact: dict[str, int] = {}
        wild: dict[int, list[tuple[str, ...]]] = {}
        for block, text, tokens in patterns:
            if _WILD & set(text):
                wild.setdefault(block, []).append(tokens)
            else:
                self._exact[text] = block
        self._blocks = sorted(wild, reverse=True)
        unions = [rf"({_union(wild[block])})\Z" for block in self._blocks]
        everything = [tokens for block in self._blocks for tokens in wild[block]]
        self._anything = re.compile(rf"(?:{_union(everything)})\Z")
        self._expression = re.compile("|".join(unions))

    def last_match(self, text: str) -> int:
        """The last block that matches ``text``, or -1."""
        exact = self._exact.get(text, -1)
        if not self._blocks or self._anything.match(text) is None:
            return exact
        match = self._expression.match(text)
        return exact if match is None else max(exact, self._blocks[(match.lastindex or 1) - 1])


class IgnorePatterns:
    """The patterns of one .dockerignore, compiled once; paths are relative to the context, clean, with /.

    What is learned about a directory is remembered, so asking for every path of a tree is cheap. One
    object may be shared by threads.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises `InvalidPattern` for a pattern that moby refuses too."""
        compiled = [pattern for text in patterns if (pattern := _compile(text)) is not None]
        self._blocks: list[list[_Pattern]] = []
        for pattern in compiled:
            if not self._blocks or self._blocks[-1][0].negated is not pattern.negated:
                self._blocks.append([])
            self._blocks[-1].append(pattern)
        placed = [(place, p) for place, block in enumerate(self._blocks) for p in block]
        self._paths = _Index((place, p.text, p.tokens) for place, p in placed if p.basename is None)
        self._names = _Index(
            (place, p.basename, _translate(p.basename))
            for place, p in placed
            if p.basename is not None
        )
        self._directories: dict[str, int] = {"": -1, ".": -1}

    @classmethod
    def parse(cls, text: bytes | str, file: str = ".dockerignore") -> IgnorePatterns:
        """Read a .dockerignore; InputError says which line is wrong."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        patterns: list[str] = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            pattern = _read_line(line)
            try:
                _compile(pattern)
            except InvalidPattern as error:
                shown = line.rstrip("\r").encode("utf-8", "replace").decode()
                place = SourceLocation(file, number, number, 1, (shown,))
                raise InputError(str(error), location=place) from None
            patterns.append(pattern)
        return cls(patterns)

    def __bool__(self) -> bool:
        return bool(self._blocks)

    @property
    def has_exceptions(self) -> bool:
        """Whether a pattern re-includes something."""
        return any(block[0].negated for block in self._blocks)

    @property
    def excludes_everything(self) -> bool:
        """Whether one pattern alone leaves out whatever lies in the context."""
        patterns = (pattern for block in self._blocks for pattern in block)
        return any(p.text in ("*", "**", "**/*") and not p.negated for p in patterns)

    def excluded(self, path: str) -> bool:
        """Whether ``path`` is left out of the context."""
        if not self._blocks or path in ("", "."):
            return False
        parent, _, name = path.rpartition("/")
        block = self._last_block(path, name, self._directory(parent))
        return block >= 0 and not self._blocks[block][0].negated

    def prunable(self, directory: str) -> bool:
        """Whether ``directory`` is left out and no exception can re-include anything below it."""
        if not self._blocks or directory in ("", "."):
            return False
        block = self._directory(directory)
        if block < 0 or self._blocks[block][0].negated:
            return False
        return not any(
            pattern.negated and pattern.may_match_below(directory)
            for later in self._blocks[block + 1 :]
            for pattern in later
        )

    def _directory(self, path: str) -> int:
        """The last block that matches a directory or one above it; -1 if none does."""
        known = self._directories.get(path)
        if known is None:
            parent, _, name = path.rpartition("/")
            known = self._last_block(path, name, self._directory(parent))
            self._directories[path] = known
        return known

    def _last_block(self, path: str, name: str, known: int) -> int:
        """The last block that matches ``path``; ``known`` is the last one that matches its parent."""
        if known == len(self._blocks) - 1:
            return known
        return max(known, self._paths.last_match(path), self._names.last_match(name))


def _read_line(line: str) -> str:
    """The pattern of one line of the file, normalised, or the empty string (rule 1)."""
    if line.startswith("#"):
        return ""
    pattern = line.strip(SPACES)
    negated = pattern.startswith("!")
    if negated:
        pattern = pattern[1:].strip(SPACES)
    if pattern:
        pattern = _clean(pattern)
        if len(pattern) > 1:
            pattern = pattern.removeprefix("/")
    return f"!{pattern}" if negated else pattern


def _clean(path: str) -> str:
    """Go's path.Clean: as normpath, but two leading slashes are one."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _compile(text: str) -> _Pattern | None:
    text = text.strip(SPACES)
    if not text:
        return None
    text = _clean(text)
    negated = text.startswith("!")
    text = text[1:] if negated else text
    if not text:
        raise InvalidPattern("an exception (!) names no path")
    tokens = _translate(text)
    if text == "**":
        tokens = (_ANYTHING,)
    elif text.startswith("**") and not _WILD & set(text[2:]):
        anywhere = _ANY_DIRECTORIES if text[2] == "/" else _ANYTHING
        tokens = (anywhere, re.escape(text[2:].removeprefix("/")))
    elif text.endswith("**") and not _WILD & set(text[:-2]):
        tokens = (re.escape(text[:-2]), _ANYTHING)
    return _Pattern(text, negated, tokens)


def _translate(pattern: str) -> tuple[str, ...]:
    """A pattern as the tokens of a regular expression for a whole path (rule 2)."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            if pattern.startswith("*", position):
                position += 1
                position += pattern.startswith("/", position)
                out.append(_ANY_DIRECTORIES if position < len(pattern) else _ANYTHING)
            elif out[-1:] != [_ANY_NAME]:
                out.append(_ANY_NAME)
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            expression, position = _translate_class(pattern, position)
            out.append(expression)
        elif character == "\\":
            if position == len(pattern):
                raise InvalidPattern(f"the pattern {pattern!r} ends in a backslash")
            out.append(re.escape(pattern[position]))
            position += 1
        else:
            out.append(re.escape(character))
    return tuple(out)


def _translate_class(pattern: str, position: int) -> tuple[str, int]:
    """The character class whose ``[`` is just before ``position``, and where it ends."""
    problem = InvalidPattern(f"the pattern {pattern!r} has a bracket that is not closed, or empty")
    out = ["["]
    if pattern.startswith("^", position):
        out.append("^")
        position += 1
    empty = True
    while empty or not pattern.startswith("]", position):
        empty = False
        low, position = _class_member(pattern, position, problem)
        high = low
        if pattern.startswith("-", position):
            high, position = _class_member(pattern, position + 1, problem)
        if high < low:
            raise InvalidPattern(f"the pattern {pattern!r} has the empty range {low}-{high}")
        out.append(f"{re.escape(low)}-{re.escape(high)}")
    return "".join([*out, "]"]), position + 1


def _class_member(pattern: str, position: int, problem: InvalidPattern) -> tuple[str, int]:
    character = pattern[position : position + 1]
    if character in ("", "-", "]"):
        raise problem
    if character == "\\":
        position += 1
        character = pattern[position : position + 1]
        if not character:
            raise problem
    if position + 1 == len(pattern):
        raise problem
    return character, position + 1


def _union(alternatives: list[tuple[str, ...]]) -> str:
    """One expression for all ``alternatives``; wildcards that begin several of them are tried once."""
    tails: dict[str, list[tuple[str, ...]]] = {}
    out: list[str] = []
    for tokens in dict.fromkeys(alternatives):
        if tokens and tokens[0] in _WILDCARDS:
            tails.setdefault(tokens[0], []).append(tokens[1:])
        else:
            out.append("".join(tokens))
    out += [f"{first}(?:{_union(rest)})" for first, rest in tails.items()]
    return "|".join(out)
