"""Logical lines and heredocs, where the case directories do not reach."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.lines import Heredoc, heredocs_of, parse_heredoc, read_lines
from asyncbuild.dockerfile.source import SourceText
from asyncbuild.errors import DockerfileError


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("<<EOF", Heredoc("EOF")),
        ("<<-EOF", Heredoc("EOF", strip_tabs=True)),
        ("3<<EOF", Heredoc("EOF")),
        ("<< EOF", Heredoc("EOF")),
        ("<<'EOF'", Heredoc("EOF", expand=False)),
        ('<<-"E"OF', Heredoc("EOF", expand=False, strip_tabs=True)),
        ("<<$X", Heredoc("$X")),
        ("<<E\\'", Heredoc("E'")),
        ("<<", None),
        ("<<<EOF", None),
        ("<<a<b", None),
        ("x<<EOF", None),
        ("<<a b", None),
        ("<<''", None),
    ],
)
def test_heredoc_words(word: str, expected: Heredoc | None) -> None:
    """What opens a heredoc, and what only looks like it."""
    assert parse_heredoc(word) == expected


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("RUN a <<A b <<B", ["A", "B"]),
        ("run <<A", ["A"]),
        ("ONBUILD COPY <<A /x", ["A"]),
        ("RUN cat <<A>out", ["A>out"]),
        ("CMD cat <<A", []),
        ("ENV A=<<A", []),
        ('RUN ["cat", "<<A"]', []),
        ("RUN 'open <<A", []),
        ('RUN "<<A"', []),
    ],
)
def test_lines_with_heredocs(line: str, names: list[str]) -> None:
    """Only RUN, COPY and ADD in shell form open heredocs."""
    assert [heredoc.name for heredoc in heredocs_of(line, "\\")] == names


def test_terminators() -> None:
    """A terminator stands alone on its line; tabs before it count for nothing after <<-."""
    source = SourceText.read("RUN <<A <<-B\n A\nA \n\tA\nA\n\tb\n\tB\nUSER x", "f")
    first, second = read_lines(source).lines
    assert [heredoc.body for heredoc in first.heredocs] == [" A\nA \n\tA\n", "\tb\n"]
    assert (second.text, second.first) == ("USER x", 8)


def test_a_long_excerpt_is_cut() -> None:
    """An error in an instruction of many lines shows the first of them."""
    text = "FROM x\nRUN --bad <<E\n" + "line\n" * 100 + "E\n"
    source = SourceText.read(text, "f")
    assert len(source.location(2, 103).excerpt) == 12
    assert source.location(2, 103).end_line == 103


def test_only_newlines_end_lines() -> None:
    """A form feed or a Unicode line separator is white space inside a line."""
    source = SourceText.read("RUN a\x0cb\u2028c\x85d\n", "f")
    (line,) = read_lines(source).lines
    assert line.text == "RUN a\x0cb\u2028c\x85d"


def test_bad_characters_in_bodies() -> None:
    """Heredoc bodies are checked like instructions, comments are not."""
    read_lines(SourceText.read(b"# \xff\nRUN a \\\n# \xff", "f"))
    with pytest.raises(DockerfileError, match="not UTF-8") as caught:
        read_lines(SourceText.read(b"RUN <<E\nok\nx\xff\nE", "f"))
    assert str(caught.value.location) == "f:3:2"
