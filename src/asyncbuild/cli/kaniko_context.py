"""kaniko's ``--context``: what it names, in our words. Nothing is fetched here.

====================================  ==============================================================
``PATH``, ``dir://PATH``              a directory
``tar://PATH``, ``tar://stdin``       a tar, compressed or not
``git://HOST/PATH[#REF[#COMMIT]]``    a repository, by https (or http: GIT_PULL_METHOD)
``https://…``                         a tar; in Azure's blob storage by AZURE_STORAGE_ACCESS_KEY
``s3://BUCKET/KEY``, ``gs://…``       a tar in a bucket; without a key ``context.tar.gz``
====================================  ==============================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import quote, urlsplit

from asyncbuild.cli.kaniko_flags import Given
from asyncbuild.cli.kaniko_options import GitOptions, git_options
from asyncbuild.context.buckets import BucketObject, azure_object
from asyncbuild.dockerfile.remote import GitReference, WebFile, is_commit
from asyncbuild.errors import UsageError
from asyncbuild.records import dataclass

_DEFAULT_KEY = "context.tar.gz"
_PREFIXES = "gs://, s3://, dir://, tar://, git:// or https://"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory on this machine."""

    path: str


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar on this machine; an empty path is the standard input."""

    path: str


ContextPlace: TypeAlias = Directory | Archive | GitReference | WebFile | BucketObject


def context_place(given: Given, environ: Mapping[str, str]) -> ContextPlace:
    """What ``--context`` (or the old ``--bucket``) names. Raises `UsageError`."""
    text = given.text("context")
    bucket = given.text("bucket")
    if bucket:
        text = bucket if "://" in bucket else f"gs://{bucket}"
    if not text:
        raise UsageError("--context is empty: name the directory to build from")
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Directory(text)
    match scheme:
        case "dir":
            return Directory(rest)
        case "tar":
            return Archive("" if rest == "stdin" else rest)
        case "git":
            return _git(rest, git_options(given), environ)
        case "https":
            return azure_object(text) or WebFile(text)
        case "s3" | "gs":
            return _bucket(scheme, text)
        case _:
            raise UsageError(f"--context {text}: it begins with {_PREFIXES}")


def _bucket(scheme: str, text: str) -> BucketObject:
    parts = urlsplit(text)
    if not parts.netloc:
        raise UsageError(f"--context {text}: write {scheme}://BUCKET/KEY")
    return BucketObject(scheme, parts.netloc, parts.path.lstrip("/") or _DEFAULT_KEY)


def _git(rest: str, options: GitOptions, environ: Mapping[str, str]) -> GitReference:
    """``HOST/PATH[#REF[#COMMIT]]``; ``--git branch=`` wins over REF, as in kaniko."""
    place, *marks = rest.split("#")
    method = environ.get("GIT_PULL_METHOD", "https")
    scheme = method if method in {"http", "https"} else "https"
    ref = marks[0] if marks else ""
    commit = marks[1] if len(marks) > 1 else ""
    if commit and not is_commit(commit):
        raise UsageError(f"--context git://{rest}: {commit!r} is not the whole name of a commit")
    if options.branch:
        ref = options.branch
    login = _git_login(place, environ)
    # A commit is fetched by itself where the server allows it, so that no branch need hold it.
    return GitReference(
        f"{scheme}://{login}{place}",
        ref=commit or ref,
        commit=commit,
        submodules=options.recurse_submodules,
    )


def _git_login(place: str, environ: Mapping[str, str]) -> str:
    """``user:password@`` from GIT_TOKEN, or GIT_USERNAME and GIT_PASSWORD; "" where there is none."""
    user, password = environ.get("GIT_USERNAME", ""), environ.get("GIT_PASSWORD", "")
    if environ.get("GIT_TOKEN"):
        user, password = environ["GIT_TOKEN"], ""
    if not (user or password) or re.match(r"[^/]*@", place):
        return ""
    colon = f":{quote(password, safe='')}" if password else ""
    return f"{quote(user, safe='')}{colon}@"
