"""BuildKit's own Dockerfile parser, asked in a process of its own.

The PyPI package ``dockerfile`` binds the parser (``frontend/dockerfile/parser``) as it was in 2024. Its
import name is that of a directory of these tests, so it is imported by a child with a clean path: this
file itself, run with ``python -I``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from asyncbuild.dockerfile.arguments import (
    json_words,
    split_blanks,
    split_command,
    split_once,
    split_space,
    split_words,
)
from asyncbuild.dockerfile.instructions import NAMES
from asyncbuild.dockerfile.lines import LogicalLine, read_lines
from asyncbuild.dockerfile.source import SourceText
from asyncbuild.errors import DockerfileError

Command = dict[str, Any]
"""One instruction as parsers see it: keyword, flags, values, lines, heredocs."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The parser refuses the file."""

    reason: str


class Oracle:
    """Answers what BuildKit's parser makes of a text; a context manager."""

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._child.communicate()

    def parse(self, text: str) -> list[Command] | Refused:
        """BuildKit's commands, in order."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(text) + "\n")
        self._child.stdin.flush()
        answer = json.loads(self._child.stdout.readline())
        return Refused(answer) if isinstance(answer, str) else answer


def our_commands(text: str) -> list[Command] | Refused:
    """What our reader makes of ``text``, in the oracle's shape; the steps are the parser's own."""
    try:
        logical = read_lines(SourceText.read(text, "Dockerfile"))
        commands = [_command(line, logical.directives.escape) for line in logical.lines]
    except (DockerfileError, ValueError) as error:
        return Refused(str(error))
    return commands or Refused("no instructions")


def _command(line: LogicalLine, escape: str) -> Command:
    command = split_command(line.text, escape)
    inner = None
    name, rest = command.keyword.upper(), command.rest
    if name == "ONBUILD" and rest:
        trigger = split_command(rest, escape)
        inner, name, rest = trigger.keyword, trigger.keyword.upper(), trigger.rest
    words, is_json = _values(name, rest, escape, inner=inner is not None)
    return {
        "keyword": command.keyword,
        "inner": inner,
        "flags": list(command.flags),
        "values": words,
        "json": is_json if inner is None else None,
        "lines": [line.first, line.last],
        "heredocs": [[h.name, h.body] for h in line.heredocs] if inner is None else None,
    }


def _values(name: str, rest: str, escape: str, *, inner: bool) -> tuple[list[str], bool]:
    if name not in NAMES or name == "ONBUILD":  # an ONBUILD of ONBUILD, or nothing that is known
        return [""] if name != "ONBUILD" or (inner and rest) else [], False
    if name in ("RUN", "CMD", "ENTRYPOINT", "SHELL", "COPY", "ADD", "VOLUME"):
        words = json_words(rest)
        if words is not None:
            return list(words), True
    if name in ("ENV", "LABEL"):
        return _pairs(name, rest, escape), False
    if name == "ARG":
        return list(split_words(rest, escape)), False
    if name in ("COPY", "ADD", "VOLUME", "EXPOSE", "FROM"):
        return list(split_blanks(rest)), False
    if name == "HEALTHCHECK":
        kind, *command = split_space(rest) or [""]
        words = json_words(command[0]) if command else None
        values = [kind, *(words if words is not None else command)] if kind else []
        return values, words is not None
    return [rest] if rest else [], False


def _pairs(name: str, rest: str, escape: str) -> list[str]:
    words = split_words(rest, escape)
    if words and "=" not in words[0]:
        first, value = split_once(rest)
        if value is None:
            raise ValueError(f"{name} {first} has no value")
        return [first, value]
    values: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word} has no =")
        values += [key, value]
    return values


def _child() -> None:
    """Answer one JSON text a line with a JSON list of commands, or with an error's text."""
    parse = import_module("dockerfile").parse_string  # only here is it the package

    for line in sys.stdin:
        try:
            found = parse(json.loads(line))
        except Exception as error:
            answer: Any = str(error)
        else:
            answer = [
                {
                    "keyword": item.cmd or "",  # None for a line that only continues
                    "inner": item.sub_cmd,
                    "flags": list(item.flags),
                    "values": list(item.value),
                    "json": item.json if item.sub_cmd is None else None,
                    "lines": [item.start_line, item.end_line],
                    "heredocs": None
                    if item.sub_cmd is not None
                    else [[h.name, h.content] for h in item.heredocs],
                }
                for item in found
            ]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _child()
