"""Where ``--cache-to`` and its relatives lead: the scope, by default that of a CI system's branch or tag."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from asyncbuild.cache.buckets import BucketPlace
from asyncbuild.cache.github import GithubPlace
from asyncbuild.cli.cache_options import read_cache_options, read_mount_places
from asyncbuild.errors import UsageError
from support.cache_arguments import given

GITHUB = {"GITHUB_REF_NAME": "7/merge", "GITHUB_HEAD_REF": "feature/a b", "GITHUB_BASE_REF": "v2"}
GITLAB = {"CI_COMMIT_REF_SLUG": "fix", "CI_DEFAULT_BRANCH": "trunk"}
USUAL = ("main", "master")


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


OWN_SERVER = (
    "type=s3,bucket=b,prefix=p/,name=x;y,endpoint_url=https://s3.test:9000,use_path_style=true,"
    "manifests_prefix=m,blobs_prefix=l/,touch_refresh=24h,upload_parallelism=4"
)
BUCKETS = [
    ("type=s3,bucket=b,region=r", {}, "s3://b", ("r", "", False), ("manifests/buildkit/",)),
    ("type=s3", {"AWS_BUCKET": "b", "AWS_REGION": "r"}, "s3://b", ("r", "", False), None),
    (
        OWN_SERVER,
        {"AWS_REGION": ""},
        "s3://b/p",
        ("", "https://s3.test:9000", True),
        ("m/x/", "m/y/"),
    ),
    (
        "type=azblob,account_url=https://acc.blob.core.windows.net,name=x",
        {},
        "az://buildkit-cache",
        ("", "https://acc.blob.core.windows.net", False),
        ("manifests/x/",),
    ),
    (
        "type=azblob",
        {
            "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL": "https://a.test",
            "BUILDKIT_AZURE_STORAGE_CONTAINER": "c",
        },
        "az://c",
        ("", "https://a.test", False),
        None,
    ),
    ("type=gcs,bucket=b,prefix=a/b", {}, "gs://b/a/b", ("", "", False), None),
]


@pytest.mark.parametrize(("text", "environ", "name", "more", "entries"), BUCKETS)
def test_buckets(
    text: str,
    environ: Mapping[str, str],
    name: str,
    more: tuple[str, str, bool],
    entries: tuple[str, ...] | None,
) -> None:
    """BuildKit's words and variables; reading and writing one place is one place."""
    texts = [text, f"{text},mode=max"]
    written = read_cache_options(given(cache_from=[text], cache_to=texts), environ)
    least, most = written.targets
    assert (least.everything, most.everything) == (False, True)
    found = least.objects
    assert isinstance(found, BucketPlace)
    assert written.sources[0].objects == most.objects == found
    assert hash(most.objects) == hash(found)
    assert not least.inline
    assert str(found) == name
    assert (found.region, found.endpoint, found.path_style) == more
    assert entries in (None, found.names.entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=s3", "needs bucket="),
        ("type=gcs,name=x", "needs bucket="),
        ("type=azblob", "needs account_url="),
        ("type=s3,bucket=b,secret_access_key=hush", "secret_access_key must not"),
        ("type=s3,bucket=b,session_token=hush", "session_token must not"),
        ("type=azblob,account_url=https://a.test/?sig=hush", "must not have a token"),
        ("type=s3,bucket=b,endpoint_url=https://u:hush@h", "must not have a token"),
        ("type=s3,bucket=b,endpoint_url=s3.test", "must be a URL"),
        ("type=s3,bucket=b,use_path_style=hush", "must be true or false"),
        ("type=s3,bucket=b,name=a/b", "must be a name"),
        ("type=s3,bucket=b,container=c", "container is not known"),
        ("type=s3,bucket=b,mode=all", "must be min or max"),
    ],
)
def test_buckets_that_are_none(text: str, message: str) -> None:
    """What is missing or wrong is said; a secret on the command line is refused, and not repeated."""
    with pytest.raises(UsageError, match=message) as caught:
        read_cache_options(given(cache_to=[text]), {})
    if "true or false" not in message:
        assert "hush" not in caught.value.render()


def test_buckets_without_obstore(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how it is installed."""
    monkeypatch.setattr("asyncbuild.cli.bucket_options.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="obstore") as caught:
        read_cache_options(given(cache_to=["type=s3,bucket=b"]), {})
    assert "asyncbuild[buckets]" in str(caught.value.hint)


JOB = {"ACTIONS_RESULTS_URL": "https://results.example/", "ACTIONS_RUNTIME_TOKEN": "t"}


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("type=gha", JOB, GithubPlace("https://results.example/", "t", "buildkit", 600)),
        ("type=gha", {}, GithubPlace()),
        (
            "type=gha,scope=app,timeout=2m,ignore-error=true,version=2,repository=a/b,ghtoken=x",
            {"ACTIONS_CACHE_URL": "http://old.example", "ACTIONS_RUNTIME_TOKEN": "t"},
            GithubPlace("http://old.example", "t", "app", 120),
        ),
        (
            "type=gha,url=http://one.example,url_v2=http://two.example,token=mine",
            JOB,
            GithubPlace("http://two.example", "mine"),
        ),
    ],
)
def test_the_cache_of_github(text: str, environ: Mapping[str, str], expected: GithubPlace) -> None:
    """BuildKit's keys, else the job's variables."""
    read = read_cache_options(given(cache_from=[text], cache_to=[f"{text},mode=max"]), environ)
    assert [place.objects for place in (*read.sources, *read.targets)] == [expected] * 2
    assert [place.everything for place in (*read.sources, *read.targets)] == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        "type=gha,token=s3cret,version=1",
        "type=gha,token=s3cret,ignore-error=perhaps",
        "type=gha,token=s3cret,timeout=soon",
        "type=gha,token=s3cret,mode=all",
        "type=gha,token=s3cret,ref=a",
        f"type=gha,token=s3cret,scope={'x' * 300}",
        'type=gha,token=s3cret,"scope',
        "type=gha,token=s3cret,scope",
    ],
)
def test_wrong_caches_of_github(text: str) -> None:
    """They are refused in words that do not show the token."""
    with pytest.raises(UsageError) as caught:
        read_cache_options(given(cache_to=[text]), JOB)
    assert "s3cret" not in caught.value.render()
