"""What of a mount is in the key of its RUN, and what is not."""

from __future__ import annotations

import pytest

from asyncbuild.build.mount_keys import MountKey, cache_id, mount_parts, secret_id
from asyncbuild.dockerfile.instructions import Run
from asyncbuild.dockerfile.mounts import MountFlag
from asyncbuild.dockerfile.parser import parse_dockerfile


def key(flag: str) -> MountKey:
    """The part of the key of one ``--mount``."""
    (stage,) = parse_dockerfile(f"FROM a\nRUN --mount={flag} x").stages
    (run,) = stage.instructions
    assert isinstance(run, Run)
    (part,) = mount_parts(run)
    return part


@pytest.mark.parametrize(
    ("flag", "reads"),
    [
        ("target=/x", ""),
        ("source=a/../b/,target=/x", "b"),
        ("from=a,source=/c,target=/x", "c"),
        ("type=cache,target=/x", None),
        ("type=cache,source=y,target=/x", None),
        ("type=cache,from=a,source=y,target=/x", "y"),
        ("type=tmpfs,target=/x", None),
        ("type=secret,id=a", None),
        ("type=ssh", None),
    ],
)
def test_whose_content_counts(flag: str, reads: str | None) -> None:
    """That of binds, and what a cache starts with; never that of a cache, a secret or an agent."""
    assert key(flag).reads == reads


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("target=/x", "target=/y"),
        ("target=/x", "target=/x,rw"),
        ("type=tmpfs,target=/x", "type=tmpfs,target=/x,size=1m"),
        ("type=cache,target=/x", "type=cache,target=/x,id=y"),
        ("type=cache,target=/x", "type=cache,target=/x,sharing=locked"),
        ("type=cache,target=/x", "type=cache,target=/x,uid=1"),
        ("type=cache,target=/x", "type=cache,target=/x,ro"),
        ("type=cache,target=/x", "type=cache,target=/x,source=y"),
        ("type=cache,target=/x", "type=tmpfs,target=/x"),
        ("type=secret,id=a", "type=secret,id=b"),
        ("type=secret,id=a", "type=secret,id=a,target=/x"),
        ("type=secret,id=a", "type=secret,id=a,env=A"),
        ("type=secret,id=a", "type=secret,id=a,mode=0444"),
        ("type=ssh", "type=ssh,id=other"),
        ("type=ssh", "type=ssh,target=/x"),
    ],
)
def test_what_tells_mounts_apart(one: str, other: str) -> None:
    """Everything that a command could notice."""
    assert key(one) != key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("target=/x", "type=bind,dst=/x,ro"),
        ("type=cache,target=/x", "type=cache,target=/x,id=/x"),
        ("type=secret,id=a", "type=secret,id=a,required"),
        ("type=secret,id=a", "type=secret,source=a"),
        ("type=ssh", "type=ssh,id=default,required=true"),
    ],
)
def test_what_is_the_same(one: str, other: str) -> None:
    """Two ways of writing one thing, and what only decides whether the RUN takes place."""
    assert key(one) == key(other)


def test_ids() -> None:
    """Defaults: a cache is called like its target as it is written, a secret like its file."""
    assert cache_id(MountFlag.parse("type=cache,target=/a//b/../c/").mount()) == "/a/c"
    assert cache_id(MountFlag.parse("type=cache,target=rel").mount()) == "rel"
    assert secret_id(MountFlag.parse("type=secret,target=/root/.aws/credentials").mount()) == (
        "credentials"
    )
