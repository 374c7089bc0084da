"""Names inside a root: cleaning, links, wildcards as Go has them."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.errors import InputError
from asyncbuild.layers.paths import (
    BadPattern,
    ancestors,
    below,
    clean,
    has_wildcards,
    join,
    matches,
    parent_of,
    resolve_links,
    unescape,
)


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("", ""),
        ("/", ""),
        (".", ""),
        ("a//b/./c/", "a/b/c"),
        ("../../a/../b", "b"),
        ("/a/..", ""),
        ("...", "..."),
    ],
)
def test_clean_paths_stay_inside(path: str, cleaned: str) -> None:
    """Dots are resolved by the text alone, and never lead above the root."""
    assert clean(path) == cleaned


def test_small_path_questions() -> None:
    """Joining, parents and ancestors treat the root as the empty path."""
    assert (join("", "a"), join("a", ""), join("a", "b"), join("", "")) == ("a", "a", "a/b", "")
    assert (parent_of("a/b"), parent_of("a"), parent_of("")) == ("a", "", "")
    assert (ancestors("a/b/c"), ancestors("a"), ancestors("")) == (["a", "a/b"], [], [])
    assert below("a/b", "a")
    assert below("a", "a")
    assert below("a", "")
    assert not below("ab", "a")


# From the tests of Go's path/filepath (the table of Match), single components.
@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "abc", True),
        ("a*b*c*d*e*", "axbxcxdxe", True),
        ("a*b*c*d*e*", "axbxcxdxexxx", True),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^b-d]", "abc", False),
        ("ab[^e-g]", "abc", True),
        (r"a\*b", "a*b", True),
        (r"a\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a]b", "a☺b", True),
        ("a???b", "a☺b", False),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        (r"[\]a]", "]", True),
        (r"[\-]", "-", True),
        (r"[x\-]", "x", True),
        (r"[x\-]", "z", False),
        (r"[\-x]", "a", False),
        ("[!a]", "!", True),
        ("*x", "xxx", True),
        ("[b-a]", "b", False),
        ("[b-ac]", "c", True),
        ("[^b-a]", "x", True),
        ("*", ".hidden", True),
    ],
)
def test_matching_is_go_s(pattern: str, name: str, expected: bool) -> None:  # noqa: FBT001
    """Wildcards match as in Go's filepath.Match."""
    assert matches(pattern, name) is expected


@pytest.mark.parametrize(
    "pattern", ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "a[x", r"[\]", "a\\"]
)
def test_broken_patterns_are_told(pattern: str) -> None:
    """What Go calls ErrBadPattern is an error here."""
    with pytest.raises(BadPattern):
        matches(pattern, "a")


@given(st.text("ab*?", max_size=6), st.text("ab.", max_size=6))
def test_simple_wildcards_agree_with_the_shell_s(pattern: str, name: str) -> None:
    """Without classes and escapes our matching is fnmatch's."""
    assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("a", False), ("a*", True), ("?", True), ("[a", True), (r"a\*", False), (r"a\\*", True)],
)
def test_wildcards_are_seen(pattern: str, expected: bool) -> None:  # noqa: FBT001
    """An escaped wildcard is none."""
    assert has_wildcards(pattern) is expected
    assert unescape(r"a\*\\b") == r"a*\b"


def test_resolving_is_the_kernel_s_after_a_chroot() -> None:
    """``..`` after a link leaves the link's target, not the link's directory."""
    links = {"l": "/x/y", "x/up": "../../..", "d/r": "../l/z"}
    resolve = links.get
    assert resolve_links(resolve, "l/../a") == "x/a"
    assert resolve_links(resolve, "x/up/b") == "b"
    assert resolve_links(resolve, "d/r") == "x/y/z"
    assert resolve_links(resolve, "d/l") == "d/l"
    assert resolve_links(resolve, "l/", follow_last=False) == "l"
    assert resolve_links(resolve, "d/../l", follow_last=True) == "x/y"


def test_long_chains_resolve_and_loops_do_not() -> None:
    """255 links are followed, one more is a loop."""
    chain = {str(number): str(number + 1) for number in range(256)}
    assert resolve_links(chain.get, "1") == "256"
    with pytest.raises(InputError, match="/0: too many symbolic links"):
        resolve_links(chain.get, "0")
