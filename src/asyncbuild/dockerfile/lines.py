r"""From physical lines to logical ones: directives, comments, continuation, heredocs.

The rules are BuildKit's:

1. Parser directives (``# escape=…``, ``# syntax=…``, ``# check=…``) stand before everything else, blank
   lines and ordinary comments included; each at most once. A first line ``#!…`` hides ``escape`` only.
2. A line whose first visible character is ``#`` is a comment, also between continued lines.
3. A line that ends in the escape character (blanks may follow it) goes on in the next one, unless the
   character before it is the escape character too. Blank lines in between are skipped, with a warning.
4. RUN, COPY and ADD in shell form (also behind ONBUILD) may be followed by heredocs. ``<<WORD`` counts
   where it stands as a word of its own, outside quotes; ``<<-`` strips leading tabs; a quote anywhere in
   WORD means that the body is not expanded. Bodies follow in order, each up to a line that is WORD.
5. Heredoc words are read with ``\`` as escape character, whatever the directive says.
6. The comments above an instruction belong to it (they may describe it, or skip build checks), from the
   last empty comment on; blank lines do not count. An indented comment keeps its ``#``.
"""

from __future__ import annotations

import re

from asyncbuild.dockerfile.arguments import json_words, split_command
from asyncbuild.dockerfile.source import Notice, Problem, SourceText, printable
from asyncbuild.dockerfile.words import SPACES, WordError, WordRules, expand_word
from asyncbuild.records import dataclass, replace

DEFAULT_ESCAPE = "\\"
_DIRECTIVE = re.compile(r"#[\t\n\v\f\r ]*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z", re.ASCII)
_DIRECTIVES = ("escape", "syntax", "check")
_HEREDOC = re.compile(r"([0-9]*)<<(-?)\s*([^<]*)\Z", re.ASCII)
_WITH_HEREDOCS = frozenset(["run", "copy", "add"])


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A heredoc: ``body`` is what stands in the file, ``expand`` whether variables are replaced in it."""

    name: str
    body: str = ""
    expand: bool = True
    strip_tabs: bool = False

    @property
    def content(self) -> str:
        """The body without the leading tabs that ``<<-`` removes."""
        return re.sub(r"^\t+", "", self.body, flags=re.MULTILINE) if self.strip_tabs else self.body


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """One instruction's text with its continuation joined, its heredocs, its first and last line, and the
    comments above it (rule 6).
    """

    text: str
    heredocs: tuple[Heredoc, ...]
    first: int
    last: int
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Directives:
    """What the parser directives say; the values of ``syntax`` and ``check`` as they are written."""

    escape: str = DEFAULT_ESCAPE
    syntax: str | None = None
    check: str | None = None


@dataclass(frozen=True, slots=True)
class LogicalFile:
    """A Dockerfile as directives and logical lines."""

    directives: Directives
    lines: tuple[LogicalLine, ...]
    notices: tuple[Notice, ...]


def read_lines(source: SourceText, directives: Directives | None = None) -> LogicalFile:
    """Read ``source``; given ``directives`` (a trigger has none of its own) no line is taken for one.

    Raises DockerfileError for a wrong or repeated directive, an unterminated heredoc, or bytes that are
    not UTF-8 outside of comments.
    """
    reader = _Reader(source)
    found = directives or reader.read_directives()
    lines = list(reader.read_all(found.escape))
    return LogicalFile(found, tuple(lines), tuple(reader.notices))


def parse_heredoc(word: str) -> Heredoc | None:
    """The heredoc that ``word`` opens, with an empty body, or None. Raises `WordError`."""
    match = _HEREDOC.match(word)
    if not match or not match[3]:
        return None
    plain = expand_word(match[3], {}, WordRules(keep_unset=True))
    if len(plain.words) != 1:
        return None
    raw = expand_word(match[3], {}, WordRules(keep_unset=True, keep_quotes=True)).words[0]
    name = plain.words[0]
    quotes = [sum(map(text.count, "'\"")) for text in (name, raw)]
    return Heredoc(name, "", expand=quotes[0] == quotes[1], strip_tabs=bool(match[2]))


def heredocs_of(line: str, escape: str) -> tuple[Heredoc, ...]:
    """The heredocs that a logical line opens, in order (rule 4)."""
    if "<<" not in line:
        return ()
    command = split_command(line, escape)
    if command.keyword.lower() == "onbuild":
        command = split_command(command.rest, escape)
    if command.keyword.lower() not in _WITH_HEREDOCS or json_words(command.rest) is not None:
        return ()
    try:
        rules = WordRules(keep_unset=True, keep_quotes=True, keep_escapes=True)
        words = expand_word(line, {}, rules).words
    except WordError:
        return ()  # an unclosed quote is the shell's business: then there are no heredocs
    return tuple(heredoc for word in words if (heredoc := parse_heredoc(word)))


def is_comment(line: str) -> bool:
    """Whether the first visible character is ``#``."""
    return line.lstrip(SPACES).startswith("#")


class _Reader:
    """A cursor over the physical lines; ``position`` counts those that are consumed."""

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.position = 0
        self.notices: list[Notice] = []
        self._directives: set[int] = set()
        self._comments: list[str] = []

    def take(self) -> str | None:
        """The next line with its ending, or None at the end."""
        if self.position == len(self.source.lines):
            return None
        self.position += 1
        return self.source.lines[self.position - 1]

    def read_directives(self) -> Directives:
        """Rule 1; the lines are looked at, not consumed: they are comments."""
        found: dict[str, str] = {}
        script = bool(self.source.lines) and self.source.lines[0].startswith("#!")
        for number, line in enumerate(self.source.lines[script:], 1 + script):
            match = _DIRECTIVE.match(line.rstrip("\r\n").lstrip(SPACES))
            name = match[1].lower() if match else ""
            if match is None or name not in _DIRECTIVES:
                break
            self._directives.add(number)
            if script and name == "escape":
                continue
            if name in found:
                problem = Problem(f"only one {name} parser directive can be used", near=match[1])
                raise self.source.error(problem, number, number)
            found[name] = printable(match[2])
            if name == "escape" and match[2] not in ("\\", "`"):
                problem = Problem(
                    f"the escape character is \\ or `, not {match[2]!r}", near=match[2]
                )
                raise self.source.error(problem, number, number)
        return replace(Directives(), **found)

    def read_all(self, escape: str) -> list[LogicalLine]:
        """Every instruction of the file."""
        mark = re.escape(escape)
        continued = re.compile(rf"(^|[^{mark}]){mark}[ \t]*\Z")
        lines: list[LogicalLine] = []
        while (line := self.take()) is not None:
            if is_comment(line):
                self._keep_comment(line)
                continue
            text = line.rstrip("\r\n").lstrip(SPACES)
            if not text:
                continue
            first = self.position
            text = self._join(text, continued)
            numbers = range(first, self.position + 1)
            self.source.check_characters(
                number for number in numbers if not is_comment(self.source.lines[number - 1])
            )
            lines.append(self._with_heredocs(text, first, escape))
        return lines

    def _keep_comment(self, line: str) -> None:
        """Rule 6."""
        text = line[1:].strip(SPACES)
        if not text:
            self._comments.clear()
        elif self.position not in self._directives:
            self._comments.append(printable(text))

    def _join(self, text: str, continued: re.Pattern[str]) -> str:
        """``text`` and the lines that continue it (rules 2 and 3)."""
        pieces: list[str] = []
        empty = 0
        while (match := continued.search(text)) is not None:
            pieces.append(text[: match.end(1)])
            text = ""
            while (line := self.take()) is not None:
                if is_comment(line):
                    continue
                text = line.rstrip("\r\n")
                if text.strip(SPACES):
                    break
                empty = empty or self.position
                text = ""
        if empty:
            place = self.source.location(empty, empty)
            message = "an empty line in the middle of a continued instruction"
            self.notices.append(Notice("NoEmptyContinuation", message, place))
        return "".join([*pieces, text])

    def _with_heredocs(self, text: str, first: int, escape: str) -> LogicalLine:
        joined = self.position
        try:
            heredocs = heredocs_of(text, escape)
        except ValueError as problem:
            raise self.source.error(problem, first, joined) from None
        bodies = tuple(self._read_body(heredoc, first) for heredoc in heredocs)
        comments = tuple(self._comments)
        self._comments.clear()
        return LogicalLine(text, bodies, first, self.position, comments)

    def _read_body(self, heredoc: Heredoc, first: int) -> Heredoc:
        body: list[str] = []
        start = self.position + 1
        while (line := self.take()) is not None:
            mark = line.rstrip("\r\n")
            if (mark.lstrip("\t") if heredoc.strip_tabs else mark) == heredoc.name:
                self.source.check_characters(range(start, self.position + 1))
                return replace(heredoc, body="".join(body))
            body.append(line)
        problem = Problem(
            f"the heredoc {heredoc.name!r} is never closed",
            hint=f"its last line must be {heredoc.name!r} alone; quote << where no heredoc is meant",
            near="<<",
        )
        raise self.source.error(problem, first, start - 1)
