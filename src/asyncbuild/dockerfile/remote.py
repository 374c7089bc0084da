"""What ADD and build contexts name that is not a path: URLs and git references. Pure.

The rules are BuildKit's (``frontend/dockerfile/dfgitutil/git_ref.go``, ``util/gitutil/git_url.go``):

1. ``http://`` and ``https://`` are a git repository if their path ends in ``.git``, else a file.
   ``git://``, ``ssh://`` and ``user@host:path`` always are repositories.
2. ``#ref:subdir`` behind it names a branch, tag or commit, and a directory; the query names the same, and
   more: ref, tag, branch, subdir, commit (or checksum), keep-git-dir, submodules, mtime, fetch-by-commit.
   Two different answers to one question are an error.
3. ``github.com/owner/name`` is a repository for a build context, and a path for ADD.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

from asyncbuild.dockerfile.source import Problem
from asyncbuild.records import dataclass, replace

_PROTOCOL = re.compile(r"([a-zA-Z0-9]+)://")
_SCP = re.compile(r"([a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:[^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_WEB = ("http", "https")
_TRANSPORTS = (*_WEB, "ssh", "git")
_TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE = frozenset(["0", "f", "F", "FALSE", "false", "False"])
_BOOLEANS = ("keep-git-dir", "submodules", "fetch-by-commit")
_MTIMES = ("checkout", "commit")
_UNNAMED = "__unnamed__"
_DEFAULT_NAME = "download"
_COMMIT = re.compile(r"[a-fA-F0-9]{40}(?:[a-fA-F0-9]{24})?")


@dataclass(frozen=True, slots=True)
class GitReference:
    """A state of a git repository, and what is wanted of it.

    ``remote`` is what git gets. ``ref`` may be a full ref, a branch, a tag or a commit; "" is the remote's
    default branch. ``commit`` is what it must be (a prefix will do). ``keep_git_dir`` is None where the
    reference does not say. ``mtime`` is "checkout" or "commit".
    """

    remote: str
    ref: str = ""
    subdir: str = ""
    commit: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True
    mtime: str = "checkout"
    fetch_by_commit: bool = False

    @property
    def shown(self) -> str:
        """What people see: without a password."""
        return redacted(self.remote) + (f"#{self.ref}" if self.ref else "")


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file behind an http or https URL."""

    url: str

    @property
    def name(self) -> str:
        """What it is called in a directory: the last component of the URL's path.

        BuildKit gives it this name whatever the answer's Content-Disposition says; a URL without a path
        gives ``__unnamed__``.
        """
        try:
            base = posixpath.basename(unquote(urlsplit(self.url).path).rstrip("/"))
        except ValueError:
            return _UNNAMED
        if base in ("", "."):
            return _UNNAMED
        return safe_name(base)

    @property
    def shown(self) -> str:
        """What people see: without a password."""
        return redacted(self.url)


Remote: TypeAlias = GitReference | WebFile


def parse_remote(text: str) -> Remote | None:
    """What ``text`` names as a source of ADD, or None for a path. Raises `Problem` for a bad reference."""
    found = parse_git(text)
    if found is not None:
        return found
    return WebFile(text) if text.startswith(("http://", "https://")) else None


def is_remote(text: str) -> bool:
    """Whether a source of ADD is a URL or a git repository (perhaps a bad one), not a path."""
    try:
        return parse_remote(text) is not None
    except Problem:
        return True


def parse_context_remote(text: str) -> Remote | None:
    """As `parse_remote`, for a build context: ``github.com/owner/name`` is a repository too (rule 3)."""
    if text.startswith("github.com/"):
        return parse_git(f"https://{text}", any_path=True)
    return parse_remote(text)


def parse_git(text: str, *, any_path: bool = False) -> GitReference | None:
    """The git reference that ``text`` is, or None. Raises `Problem` for one that contradicts itself.

    ``any_path``: an https URL need not end in ``.git``.
    """
    protocol = _PROTOCOL.match(text)
    if protocol is None:
        match = _SCP.fullmatch(text)
        if match is None:
            return None
        remote, query, fragment = match[1], match[2] or "", match[3] or ""
        return _with_query(_with_fragment(GitReference(remote), fragment), query)
    scheme = protocol[1].lower()
    if scheme not in _TRANSPORTS:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    if scheme in _WEB and not any_path and not unquote(parts.path).endswith(".git"):
        return None
    remote = urlunsplit(SplitResult(parts.scheme, parts.netloc, parts.path, "", ""))
    return _with_query(_with_fragment(GitReference(remote), unquote(parts.fragment)), parts.query)


def is_commit(text: str) -> bool:
    """Whether ``text`` is the whole name of a commit (SHA-1 or SHA-256)."""
    return _COMMIT.fullmatch(text) is not None


def redacted(url: str) -> str:
    """``url`` without the password in it."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:xxxxx@", url)


def safe_name(name: str) -> str:
    """A file name made of what someone else sent: never empty, a path, or with control characters."""
    base = posixpath.basename(name.strip())
    if base in ("", ".", "..") or any(
        ord(character) < 32 or ord(character) == 127 for character in base
    ):
        return _DEFAULT_NAME
    return base


def _with_fragment(git: GitReference, fragment: str) -> GitReference:
    ref, _, subdir = fragment.partition(":")
    clean = posixpath.normpath(f"/{subdir}").lstrip("/")
    return replace(git, ref=ref, subdir=clean)


def _with_query(git: GitReference, query: str) -> GitReference:
    values: dict[str, str | None] = {}
    for key, many in parse_qs(query, keep_blank_values=True).items():
        if len(many) > 1:
            raise _wrong(git, f"the query names {key} twice")
        if not many[0] and key not in _BOOLEANS:
            raise _wrong(git, f"{key} has no value in the query")
        values[key] = many[0] or None
    unknown = [key for key in values if key not in _KEYS]
    if unknown:
        raise _wrong(git, f"the query has an unknown key {unknown[0]!r}")
    if values.get("mtime", "commit") not in _MTIMES:
        raise _wrong(git, f"mtime is one of {' and '.join(_MTIMES)}")
    return replace(
        git,
        ref=_ref(git, values),
        subdir=_agreed(git, "subdir", git.subdir, values.get("subdir")),
        commit=values.get("checksum") or values.get("commit") or "",
        keep_git_dir=_boolean(git, values, "keep-git-dir"),
        submodules=_boolean(git, values, "submodules") is not False,
        mtime=values.get("mtime") or "checkout",
        fetch_by_commit=_boolean(git, values, "fetch-by-commit") or False,
    )


_KEYS = frozenset(
    [*_BOOLEANS, "ref", "tag", "branch", "subdir", "checksum", "commit", "mtime"],
)


def _ref(git: GitReference, values: Mapping[str, str | None]) -> str:
    ref = _agreed(git, "ref", git.ref, values.get("ref"))
    tag, branch = values.get("tag"), values.get("branch")
    if tag and branch:
        raise _wrong(git, "it names both a tag and a branch")
    for prefix, name in (("refs/tags/", tag), ("refs/heads/", branch)):
        if name:
            ref = _agreed(git, "ref", ref, prefix + name.removeprefix(prefix))
    return ref


def _agreed(git: GitReference, what: str, one: str, other: str | None) -> str:
    if one and other and one != other:
        raise _wrong(git, f"it names two {what}s, {one!r} and {other!r}")
    return other or one


def _boolean(git: GitReference, values: Mapping[str, str | None], key: str) -> bool | None:
    if key not in values:
        return None
    value = values[key]
    if value is None or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise _wrong(git, f"{key} is true or false, not {value!r}")


def _wrong(git: GitReference, what: str) -> Problem:
    return Problem(f"the git reference {git.shown}: {what}")
