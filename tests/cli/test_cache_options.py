"""Where ``--cache-to`` and its relatives lead: the scope, by default that of a CI system's branch or tag."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import pytest

from asyncbuild.cli.cache_options import read_cache_options, read_mount_places
from asyncbuild.errors import UsageError

GITHUB = {"GITHUB_REF_NAME": "7/merge", "GITHUB_HEAD_REF": "feature/a b", "GITHUB_BASE_REF": "v2"}
GITLAB = {"CI_COMMIT_REF_SLUG": "fix", "CI_DEFAULT_BRANCH": "trunk"}
USUAL = ("main", "master")


def given(**more: object) -> argparse.Namespace:
    """Options of a build that speak of caches."""
    lists = dict.fromkeys(("cache_from", "cache_to", "no_cache_filter", "tag"), ())
    texts = dict.fromkeys(("cache_repo", "cache_ttl"), "")
    return argparse.Namespace(**{**lists, **texts, "no_cache": False, **more})


def place(text: str, environ: Mapping[str, str]) -> tuple[str, tuple[str, ...], bool]:
    """The scope of ``--cache-repo``, the scopes that are read too, and whether all stages are kept."""
    read = read_cache_options(given(cache_repo=text), environ)
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


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("reg.example:5000/team/app:1.2", "reg.example:5000/team/app/cache:cache"),
        ("reg.example/app", "reg.example/app/cache:cache"),
    ],
)
def test_a_repository_that_is_inferred(tag: str, expected: str) -> None:
    """Without ``ref=`` it is below the first name of the image; without a name that is an error."""
    named = given(tag=[tag, "other.example/b"], cache_to=["type=registry,mode=max"])
    (found,) = read_cache_options(named, {}).targets
    assert (str(found.reference), found.everything) == (expected, True)
    with pytest.raises(UsageError, match="no -t"):
        read_cache_options(given(cache_from=["type=registry"]), {})


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("--cache-mount-to", "reg.example/m", ("reg.example/m", None, set(), 5_000_000_000)),
        (
            "--cache-mount-from",
            "type=registry,ref=reg.example/m:t,id=a,id=b,max-size=1k",
            ("reg.example/m:t", None, {"a", "b"}, 1000),
        ),
        ("--cache-mount-to", "type=local,dest=/kept", (None, "/kept", set(), 5_000_000_000)),
        ("--cache-mount-from", "type=local,src=/kept,id=x", (None, "/kept", {"x"}, 5_000_000_000)),
    ],
)
def test_places_of_mounts(option: str, text: str, expected: tuple[object, ...]) -> None:
    """A repository, or a directory, with what they keep."""
    (found,) = read_mount_places(option, [text])
    where = None if found.reference is None else str(found.reference)
    path = None if found.path is None else str(found.path)
    assert (where, path, found.ids, found.most) == expected


@pytest.mark.parametrize(
    "text",
    ["type=local,src=/kept", "type=local", "type=s3,ref=a", "type=local,dest=/a,ref=b", "ref=A B"],
)
def test_wrong_places_of_mounts(text: str) -> None:
    """What has no meaning is refused."""
    with pytest.raises(UsageError):
        read_mount_places("--cache-mount-to", [text])
