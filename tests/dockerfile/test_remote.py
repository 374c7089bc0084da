"""URLs and git references: BuildKit's own table (dfgitutil/git_ref_test.go), and file names of URLs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.dockerfile.remote import (
    GitReference,
    WebFile,
    is_commit,
    is_remote,
    parse_context_remote,
    parse_git,
    parse_remote,
    redacted,
    safe_name,
)
from asyncbuild.dockerfile.source import Problem

BK = "https://github.com/moby/buildkit.git"


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/",
        "https://example.com/foo",
        "https://example.com/foo.git/",
        "https://example.com/foo.git.bar",
        "custom.xyz/moby/buildkit.git",
        "https://github.com/moby/buildkit",
        "http://github.com/docker/docker.git:#branch",
        "./.git",
        ".git",
        "github.com/moby/buildkit",
        "ftp://example.com/foo.git",
    ],
)
def test_no_git_reference(text: str) -> None:
    """A path, or a URL of a file."""
    assert parse_git(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/foo.git", GitReference("https://example.com/foo.git")),
        ("https://example.com/foo.git#dead", GitReference("https://example.com/foo.git", "dead")),
        ("https://e.com/f.git#release/1.2", GitReference("https://e.com/f.git", "release/1.2")),
        ("git://example.com/foo", GitReference("git://example.com/foo")),
        ("https://foo:bar@github.com/a.git", GitReference("https://foo:bar@github.com/a.git")),
        ("git@github.com:moby/buildkit", GitReference("git@github.com:moby/buildkit")),
        ("git@github.com:moby/buildkit.git", GitReference("git@github.com:moby/buildkit.git")),
        ("ssh://git@host:22/a/b", GitReference("ssh://git@host:22/a/b")),
        (f"{BK}#baz/qux:quux/quuz", GitReference(BK, "baz/qux", "quux/quuz")),
        (f"{BK}#:myfolder", GitReference(BK, subdir="myfolder")),
        (f"{BK}#v1:/../a/./b/", GitReference(BK, "v1", "a/b")),
        (f"{BK}?ref=v1.0.0&subdir=/subdir", GitReference(BK, "v1.0.0", "/subdir")),
        (f"{BK}?subdir=/subdir#v1.0.0", GitReference(BK, "v1.0.0", "/subdir")),
        (f"{BK}?tag=v1.0.0", GitReference(BK, "refs/tags/v1.0.0")),
        (f"{BK}?tag=refs/tags/v1", GitReference(BK, "refs/tags/v1")),
        (f"{BK}?branch=v1.0", GitReference(BK, "refs/heads/v1.0")),
        ("git@h.com:m/b.git?subdir=/s#v1", GitReference("git@h.com:m/b.git", "v1", "/s")),
        (f"{BK}?mtime=commit", GitReference(BK, mtime="commit")),
        (
            f"{BK}?submodules=false&keep-git-dir",
            GitReference(BK, keep_git_dir=True, submodules=False),
        ),
        (
            f"{BK}?fetch-by-commit=true&checksum=deadbeef#refs/heads/b",
            GitReference(BK, "refs/heads/b", commit="deadbeef", fetch_by_commit=True),
        ),
        (f"{BK}?fetch-by-commit=false", GitReference(BK)),
    ],
)
def test_git_reference(text: str, expected: GitReference) -> None:
    """Every form that BuildKit takes."""
    assert parse_git(text) == expected
    assert parse_remote(text) == expected


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("?ref=v1.0.0#v1.2.3", "two refs"),
        ("?ref=v1.0.0&tag=v1.2.3", "two refs"),
        ("?tag=v1.0.0&branch=v1.0", "both a tag and a branch"),
        ("?mtime=invalid", "mtime is one of"),
        ("?fetch-by-commit=invalid", "true or false"),
        ("?invalid=123", "unknown key 'invalid'"),
        ("?ref=", "has no value"),
        ("?ref=a&ref=b", "ref twice"),
        ("?subdir=a#:b", "two subdirs"),
    ],
)
def test_contradictions(query: str, what: str) -> None:
    """A reference that says two things, or what nobody knows, is refused; for `is_remote` it is one."""
    with pytest.raises(Problem, match=what):
        parse_git(BK + query)
    assert is_remote(BK + query)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("http://x/a/b.txt?c=d#e", "b.txt"),
        ("https://x/a%20b", "a b"),
        ("https://x/a%2Fb", "b"),
        ("https://x/dir/", "dir"),
        ("https://x/", "__unnamed__"),
        ("https://x", "__unnamed__"),
        ("https://x/%0a", "download"),
    ],
)
def test_name_of_a_file(text: str, name: str) -> None:
    """The decoded last component of the path."""
    remote = parse_remote(text)
    assert isinstance(remote, WebFile)
    assert remote.name == name


@pytest.mark.parametrize("text", ["a", "./http:", "ftp://a", "a@b", "$URL", "C:x", "HTTPS://a/b"])
def test_paths(text: str) -> None:
    """Anything else is a path."""
    assert parse_remote(text) is None
    assert not is_remote(text)


def test_github_names_a_repository_for_contexts_only() -> None:
    """``github.com/owner/name`` without a scheme."""
    assert parse_remote("github.com/moby/buildkit#master") is None
    found = parse_context_remote("github.com/moby/buildkit#master")
    assert found == GitReference("https://github.com/moby/buildkit", "master")


def test_passwords_are_not_shown() -> None:
    """What people see of a URL with a login."""
    assert redacted("https://me:secret@x/y?a=b:c@d") == "https://me:xxxxx@x/y?a=b:c@d"
    assert GitReference("https://me:secret@x/y.git", "r").shown == "https://me:xxxxx@x/y.git#r"


def test_commits() -> None:
    """The whole name of a commit, of either hash."""
    assert is_commit("0" * 40)
    assert is_commit("aB" * 32)
    assert not is_commit("0" * 39)
    assert not is_commit("g" * 40)


@given(st.text())
def test_safe_names_are_names(text: str) -> None:
    """Whatever someone sends, a name is one component, and none that means a directory."""
    name = safe_name(text)
    assert name not in ("", ".", "..")
    assert "/" not in name
    assert "\0" not in name


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is a path, a remote, or a Problem."""
    is_remote(text)
    is_remote(f"https://{text}")
    is_remote(f"git@x:{text}")
