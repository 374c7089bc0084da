""".dockerignore: cases, and the compiled matcher against a slow one that follows moby's rules to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.dockerfile.ignore import IgnorePatterns, InvalidPattern
from asyncbuild.errors import InputError


def excluded(text: str, *paths: str) -> list[str]:
    """Those of ``paths`` that a .dockerignore with ``text`` excludes."""
    patterns = IgnorePatterns.parse(text)
    return [path for path in paths if patterns.excluded(path)]


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("a", ["a", "a/b", "a/b/c"], ["b/a", "ab"]),
        ("/a/", ["a", "a/b"], ["b/a"]),
        ("a/b", ["a/b", "a/b/c"], ["a", "b", "x/a/b"]),
        ("./a/../b", ["b"], ["a"]),
        ("*", ["a", "a/b", ".git"], []),
        ("*.o", ["x.o", ".o", "x.o/y"], ["d/x.o", "x.os"]),
        ("*/x", ["a/x", "a/x/y"], ["x", "a/b/x"]),
        ("**/x", ["x", "a/x", "a/b/x", "a/x/y"], ["ax", "a/bx"]),
        ("**x", ["x", "ax", "a/bx"], ["xa"]),
        ("**", ["a", "a/b"], []),
        ("**/*", ["a", "a/b"], []),
        ("**/*.o", ["x.o", "a/x.o"], ["x.c"]),
        ("**/a/b", ["a/b", "x/a/b", "a/b/c"], ["xa/b", "a/c/b"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("a**", ["a", "ab", "a/b"], ["ba"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a", "a/xb"]),
        ("a/**/*.o", ["a/x.o", "a/b/x.o"], ["x.o", "a/x"]),
        ("?", ["a", "a/b", "é"], ["ab"]),
        ("a?c", ["abc", "a.c"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("", [], ["a"]),
        ("a\\*", ["a*"], ["ab"]),
        ("a[\\]]b", ["a]b"], ["a-b"]),
        ("a.b+c(d)|{e}$^", ["a.b+c(d)|{e}$^"], ["axb+c(d)|{e}$^"]),
        ("..", [], ["a"]),
        (".", [], ["a", "."]),
        ("/", [], ["a"]),
        (" a ", ["a"], []),
        ("a b", ["a b"], ["a"]),
        ("dir/*/file?.[ch]", ["dir/x/file1.c", "dir/y/fileé.h"], ["dir/file1.c", "dir/x/file1.o"]),
    ],
)
def test_one_pattern(pattern: str, hits: list[str], misses: list[str]) -> None:
    """A pattern excludes what it matches and everything below."""
    assert excluded(pattern, *hits, *misses) == hits


@pytest.mark.parametrize(
    ("text", "hits", "misses"),
    [
        ("*\n!a", ["b"], ["a", "a/b"]),
        ("a\n!a/b", ["a", "a/c"], ["a/b", "a/b/c"]),
        ("!a\na", ["a"], ["b"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["x.md", "README-secret.md"], ["README.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["x.md"], ["README.md", "README-secret.md"]),
        ("**/a\n!**/a/keep", ["a", "x/a", "x/a/y"], ["a/keep", "x/a/keep/y"]),
        ("ignore/**\n!ignore/foo", ["ignore/bar"], ["ignore", "ignore/foo"]),
        ("**\n!**/*.c\nb/**", ["x", "b/x.c"], ["x.c", "a/x.c"]),
        ("*\n! a", ["b"], ["a"]),
        ("a\n!!b", ["a"], ["b", "!b"]),
    ],
)
def test_exceptions(text: str, hits: list[str], misses: list[str]) -> None:
    """The last pattern that matches decides."""
    assert excluded(text, *hits, *misses) == hits


def test_the_file() -> None:
    """Comments, blank lines, CRLF, a byte order mark; names that are not UTF-8 match as they are."""
    text = b"\xef\xbb\xbfa\r\n\r\n# b\n #c\n  \n\xff\n"
    patterns = IgnorePatterns.parse(text)
    assert patterns
    assert [p for p in ("a", "b", "# b", "#c", "\udcff") if patterns.excluded(p)] == [
        "a",
        "#c",
        "\udcff",
    ]
    nothing = IgnorePatterns.parse("# only a comment\n")
    assert not nothing
    assert not nothing.excluded("a")
    assert not nothing.prunable("a")


@pytest.mark.parametrize(
    "line", ["!", "! ", "!/", "[", "[]", "[a", "[a-", "[-a]", "[^]", "a\\", "[z-a]", "[\\"]
)
def test_wrong_patterns(line: str) -> None:
    """A pattern that nothing can match is an error with its line."""
    with pytest.raises(InputError) as caught:
        IgnorePatterns.parse(f"a\n{line}\n", "ctx/.dockerignore")
    assert str(caught.value.location) == "ctx/.dockerignore:2:1"
    with pytest.raises(InvalidPattern):
        IgnorePatterns([line])


@pytest.mark.parametrize(
    ("text", "prunable", "entered"),
    [
        ("a", ["a", "a/b"], ["b"]),
        ("a\n!a/b/c", ["a/x"], ["a", "a/b"]),
        ("*\n!a", ["b", "b/c"], ["a"]),
        ("*\n!a/*/c", ["b"], ["a", "a/x"]),
        ("*\n!a/*/c", ["a/b/d"], []),
        ("*\n!**/c", [], ["a", "a/b"]),
        ("!a/b\na", ["a", "a/b"], []),
        ("node_modules\n!src/**/keep", ["node_modules", "node_modules/x"], ["src"]),
        ("a\n!a/[b]", [], ["a"]),
        ("a\n!b\\*/c", [], ["a"]),
    ],
)
def test_pruning(text: str, prunable: list[str], entered: list[str]) -> None:
    """A directory need not be entered if it is excluded and no exception can reach below it."""
    patterns = IgnorePatterns.parse(text)
    assert [d for d in [*prunable, *entered] if patterns.prunable(d)] == prunable


# The slow matcher. It walks pattern and path side by side, and asks every pattern about every prefix.


def _matches(pattern: str, path: str, *, start: bool = True) -> bool:
    """Whether ``pattern`` matches the whole of ``path``, without any regular expression."""
    if not pattern:
        return not path
    if pattern.startswith("**"):
        rest = pattern[2:]
        plain = not set("*?[\\") & set(rest)
        if start and plain and rest and not rest.startswith("/"):
            return path.endswith(rest)
        rest = rest.removeprefix("/")
        if not rest:
            return True
        places = [0, *(n + 1 for n, c in enumerate(path) if c == "/")]
        return any(_matches(rest, path[n:], start=False) for n in places)
    head, rest = pattern[0], pattern[1:]
    if head == "*":
        end = path.find("/")
        reach = len(path) if end < 0 else end
        return any(_matches(rest, path[n:], start=False) for n in range(reach + 1))
    if not path:
        return False
    if head == "?":
        return path[0] != "/" and _matches(rest, path[1:], start=False)
    if head == "[":
        members, _, rest = rest.partition("]")
        negated = members.startswith("^")
        return ((path[0] in members.removeprefix("^")) != negated) and _matches(
            rest, path[1:], start=False
        )
    if head == "\\":
        head, rest = rest[0], rest[1:]
    return path[0] == head and _matches(rest, path[1:], start=False)


def slowly_excluded(patterns: list[str], path: str) -> bool:
    """Moby's MatchesOrParentMatches, for patterns that are clean already."""
    components = path.split("/")
    prefixes = ["/".join(components[:n]) for n in range(1, len(components) + 1)]
    result = False
    for pattern in patterns:
        negated = pattern.startswith("!")
        if any(_matches(pattern.removeprefix("!"), prefix) for prefix in prefixes):
            result = not negated
    return result


COMPONENT = st.one_of(
    st.sampled_from(
        ["a", "b", "ab", "*", "**", "*a", "a*", "?", "a?", "[ab]", "[^a]", "\\a", "\\*", "**a"]
    ),
    st.sampled_from(["*.c", "a.c", "b.c", "a**", "*?*", "***"]),
)
PATTERN = st.builds(
    lambda mark, parts: mark + "/".join(parts),
    st.sampled_from(["", "", "!"]),
    st.lists(COMPONENT, min_size=1, max_size=3),
)
PATH = st.lists(
    st.sampled_from(["a", "b", "ab", "ba", "a.c", "b.c", "*", "c"]), min_size=1, max_size=4
).map("/".join)


@given(st.lists(PATTERN, max_size=6), st.lists(PATH, min_size=1, max_size=8))
def test_the_compiled_matcher_is_the_slow_one(patterns: list[str], paths: list[str]) -> None:
    """Compiled or not, remembered or not: the same paths are excluded."""
    compiled = IgnorePatterns(patterns)
    expected = [slowly_excluded(patterns, path) for path in paths]
    assert [compiled.excluded(path) for path in paths] == expected
    assert [compiled.excluded(path) for path in paths] == expected


@given(st.lists(PATTERN, max_size=5), PATH, PATH)
def test_nothing_is_lost_by_pruning(patterns: list[str], directory: str, below: str) -> None:
    """Whatever lies below a directory that need not be entered is excluded."""
    compiled = IgnorePatterns(patterns)
    if compiled.prunable(directory):
        assert compiled.excluded(directory)
        assert compiled.excluded(f"{directory}/{below}")


@given(st.lists(st.text(max_size=8), max_size=4), st.text(max_size=8))
def test_any_file_is_patterns_or_an_error(lines: list[str], path: str) -> None:
    """No .dockerignore makes the matcher fail in a way of its own."""
    try:
        answer: object = IgnorePatterns.parse("\n".join(lines)).excluded(path)
    except InputError as error:
        answer = error.location
    assert answer is not None
