"""Where ``--cache-to`` and its relatives lead: the scope, by default that of a CI system's branch or tag."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import pytest

from asyncbuild.cli.cache_options import read_cache_options

GITHUB = {"GITHUB_REF_NAME": "7/merge", "GITHUB_HEAD_REF": "feature/a b", "GITHUB_BASE_REF": "v2"}
GITLAB = {"CI_COMMIT_REF_SLUG": "fix", "CI_DEFAULT_BRANCH": "trunk"}
USUAL = ("main", "master")


def place(text: str, environ: Mapping[str, str]) -> tuple[str, tuple[str, ...], bool]:
    """The scope of ``--cache-repo``, the scopes that are read too, and whether all stages are kept."""
    options = argparse.Namespace(
        cache_from=[],
        cache_to=[],
        cache_repo=text,
        cache_ttl="",
        no_cache=False,
        no_cache_filter=[],
    )
    read = read_cache_options(options, environ)
    (found,) = read.sources
    assert read.targets == (found,)
    assert found.reference is not None
    return str(found.reference.tag), found.fallbacks, found.everything


@pytest.mark.parametrize(
    ("text", "environ", "scope", "fallbacks"),
    [
        ("reg.example/a/cache", {}, "cache", ()),
        ("reg.example/a/cache:mine", {}, "mine", ()),
        ("reg.example/a/cache", {"GITHUB_REF_NAME": "main"}, "main", ("master",)),
        ("reg.example/a/cache", {"GITHUB_REF_NAME": "v1.2"}, "v1.2", USUAL),
        ("reg.example/a/cache", GITHUB, "feature-a-b", ("v2", *USUAL)),
        ("reg.example/a/cache:mine", GITHUB, "mine", ("v2", *USUAL)),
        ("reg.example/a/cache", GITLAB, "fix", ("trunk", *USUAL)),
        ("reg.example/a/cache", {**GITLAB, "CI_DEFAULT_BRANCH": "fix"}, "fix", USUAL),
    ],
)
def test_scopes(
    text: str, environ: Mapping[str, str], scope: str, fallbacks: tuple[str, ...]
) -> None:
    """The tag, else what CI names, made into a tag; in CI the target's scope is read too."""
    assert place(text, environ) == (scope, fallbacks, True)
