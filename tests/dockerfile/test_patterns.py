"""Patterns of substitutions: what matches is what BuildKit's regular expression would match, in bounded work."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.dockerfile import patterns
from asyncbuild.dockerfile.patterns import ShellPattern, Steps, TooManySteps
from asyncbuild.dockerfile.words import WordError, expand_word

MIB = 1 << 20


def expression(pattern: str, *, greedy: bool) -> str:
    """The regular expression that BuildKit makes of a pattern (convertShellPatternToRegex)."""
    star = ".*" if greedy else ".*?"
    tokens = re.findall(r"\\.|.", pattern, re.DOTALL)
    parts = {"*": star, "?": "."}
    return "".join(parts.get(token) or re.escape(token[-1]) for token in tokens)


PATTERNS = st.text(alphabet="ab*?\n", max_size=7)
VALUES = st.text(alphabet="ab\n", max_size=12)


@given(PATTERNS, VALUES, st.booleans())
def test_prefixes(pattern: str, value: str, longest: bool) -> None:  # noqa: FBT001 - an example
    """The prefix is that of the regular expression, whose engine tries everything."""
    match = re.match(expression(pattern, greedy=longest), value)
    end = ShellPattern.parse(pattern).end(value, Steps(), longest=longest)
    assert end == (None if match is None else match.end())


@given(PATTERNS, VALUES, st.booleans())
def test_suffixes(pattern: str, value: str, longest: bool) -> None:  # noqa: FBT001 - an example
    """The suffix is the shortest, or the longest, that all of the regular expression matches."""
    whole = re.compile(expression(pattern, greedy=True))
    starts = [place for place in range(len(value) + 1) if whole.fullmatch(value, place)]
    name = "%%" if longest else "%"
    expected = value[: (starts[0] if longest else starts[-1])] if starts else value
    quoted = pattern.replace("\n", "'\n'")
    if "\n" not in pattern and not pattern.startswith("%"):
        assert expand_word(f"${{x{name}{quoted}}}", {"x": value}).text == expected
    end = ShellPattern.parse(pattern).reversed().end(value[::-1], Steps(), longest=longest)
    assert end == (len(value) - len(expected) if starts else None)


@given(PATTERNS, VALUES)
def test_matches(pattern: str, value: str) -> None:
    """Every match is that of the regular expression, one after the other; Go leaves out an empty match right
    behind another one.
    """
    expected, last = [], -1
    for match in re.finditer(expression(pattern, greedy=True), value):
        if not match.start() == match.end() == last:
            expected.append(match.span())
            last = match.end()
    assert list(ShellPattern.parse(pattern).matches(value, Steps())) == expected


LINE = "a" * MIB
LINES = "ab\n" * (MIB // 3)
SLOW = [
    ("*a*a*a*b", LINE),
    ("*a*a*a*b*", LINE),
    ("a*b", LINE),
    ("*b", LINE),
    ("a*a*a*a*c", LINES),
    ("*\nb*\nc", LINES),
    ("*" + "a" * 5000 + "b" + "a" * 5000, LINE),
    ("*?*?*?b", LINE),
    ("?b", LINE),
]


@pytest.mark.parametrize(("pattern", "value"), SLOW)
def test_work_is_linear(pattern: str, value: str) -> None:
    """A MiB is looked at a few times for each star, in whichever way it is asked for: with a regular expression
    that backtracks most of these never end.
    """
    compiled = ShellPattern.parse(pattern)
    most = 4 * (len(compiled.runs) + 1) * (len(value) + len(pattern))
    for longest in (False, True):
        steps = Steps()
        assert compiled.end(value, steps, longest=longest) is None
        assert compiled.reversed().end(value[::-1], steps, longest=longest) is None
        assert steps.count <= 2 * most
    steps = Steps()
    assert list(compiled.matches(value, steps)) == []
    assert steps.count <= most


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("${x##*a*a*a*}", ""),
        ("${x##*a*a}", ""),
        ("${x#*a*a}", "a" * (MIB - 2)),
        ("${x%%a*}", ""),
        ("${x//a/}", ""),
        ("${x//a?/b}", "b" * (MIB // 2)),
        ("${x/a*a/b}", "b"),
        ("${x//a*b/}", "a" * MIB),
    ],
)
def test_answers_on_a_large_value(word: str, expected: str) -> None:
    """They are right there too."""
    assert expand_word(word, {"x": LINE}).text == expected


def test_what_cannot_be_bounded_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that almost matches everywhere is given up, with a word about why."""
    monkeypatch.setattr(patterns, "MOST_STEPS", 1 << 16)
    pattern = "a?" * 100 + "b"
    with pytest.raises(TooManySteps):
        list(ShellPattern.parse(pattern).matches("a" * (1 << 12), Steps()))
    for word in (f"${{x#*{pattern}}}", f"${{x//{pattern}/}}"):
        with pytest.raises(WordError, match="more than 65536 steps"):
            expand_word(word, {"x": "a" * (1 << 12)})
