"""Our reader and BuildKit's own parser agree, on every Dockerfile of this repository and on generated ones.

What they do not agree on is listed in docs/compatibility.md, and asserted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings

from support.grammar import dockerfiles
from support.oracle import Command, Oracle, Refused, our_commands

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for place in ("tests", "examples")
    for path in (ROOT / place).rglob("Dockerfile*")
    if path.is_file() and path.name != "Dockerfile.dockerignore"
)
EXPLAINED = {
    # the parser of today (checked in its source) reads these as we do, the bound one is older
    "a heredoc's word apart from its mark": r"<<-?[\t\r ]",
    "text behind a JSON array": r"\][^\n]*\S",
    "backslashes in flags under another escape character": r"(?s)escape\s*=\s*`.*--\S*[^\n]*\\",
    "modifiers in front of a heredoc": r"\$\{\w*:?[#%/]",
    "the check directive": r"(?m)^\s*#\s*check\s*=",
    # we differ from all of BuildKit's parsers
    "NUL, and bytes that are not UTF-8": r"[\0\ufffd]",
    "flags that are not ASCII": r"--[^\n]*[^\n\x00-\x7f]",
    "blanks that are not ASCII before a flag": (
        r"[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]\s*--"
    ),
    "HEALTHCHECK that is not ASCII": r"(?i)HEALTHCHECK[^\n]*[^\n\x00-\x7f]",
}
"""The differences, as expressions that a text with one of them matches."""


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """BuildKit's parser in its own process."""
    with Oracle() as running:
        yield running


def explanations(text: str) -> set[str]:
    """The differences that may occur in ``text``."""
    joined = re.sub(r"[\\`][ \t]*\r?\n(?:\s*(?:#.*)?\n)*", "", text)
    found = {name for name, expression in EXPLAINED.items() if re.search(expression, text)}
    return found | {name for name, expression in EXPLAINED.items() if re.search(expression, joined)}


def agree(theirs: list[Command] | Refused, ours: list[Command] | Refused) -> bool:
    """Both refuse, or both read the same."""
    if isinstance(theirs, Refused) or isinstance(ours, Refused):
        return isinstance(theirs, Refused) and isinstance(ours, Refused)
    return theirs == ours


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT).parent))
def test_files(path: Path, oracle: Oracle) -> None:
    """A Dockerfile of this repository is the same for both, but for what is explained."""
    text = path.read_bytes().decode(errors="replace")
    theirs, ours = oracle.parse(text), our_commands(text)
    assert agree(theirs, ours) or explanations(text), (theirs, ours)


@settings(max_examples=400)
@given(dockerfiles())
@example('# escape=`\nFROM ["a"]\nFROM \\\n  `')
def test_generated_files(oracle: Oracle, text: str) -> None:
    """So is whatever the grammar makes."""
    theirs, ours = oracle.parse(text), our_commands(text)
    assert agree(theirs, ours) or explanations(text), (theirs, ours)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a heredoc's word apart from its mark", "COPY << E /x\nbody\nE"),
        ("text behind a JSON array", 'FROM a\nCMD ["a"] x'),
        ("modifiers in front of a heredoc", "RUN ${A%%x} <<E\nbody\nE"),
        (
            "backslashes in flags under another escape character",
            "# escape=`\nFROM --platform=a\\ x",
        ),
        ("the check directive", "# check=skip=all\n# check=skip=all\nFROM a"),
        ("the check directive", "# check=skip=all\n# escape=`\nFROM a\nRUN a `\n b"),
        ("NUL, and bytes that are not UTF-8", "FROM a\0"),
        ("flags that are not ASCII", "COPY --chown=é a b"),
        ("blanks that are not ASCII before a flag", "COPY \u2003--from=x a b"),
        ("HEALTHCHECK that is not ASCII", "HEALTHCHECK CMD\xa0x"),
    ],
)
def test_differences(name: str, text: str, oracle: Oracle) -> None:
    """Each difference that is listed is one; where it is gone, the list is too long."""
    assert name in explanations(text)
    assert not agree(oracle.parse(text), our_commands(text))


def test_differences_are_documented() -> None:
    """docs/compatibility.md has a row for each."""
    page = (ROOT / "docs" / "compatibility.md").read_text()
    assert [name for name in EXPLAINED if f"| {name} |" not in page] == []
