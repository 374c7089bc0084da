"""RUN --mount and --device: typed values, defaults, and what may not go together."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.mounts import (
    Device,
    Mount,
    MountFlag,
    MountType,
    Sharing,
    parse_device,
    split_csv,
)
from asyncbuild.dockerfile.source import Problem


def mount(text: str) -> Mount:
    """The typed mount of a flag's value."""
    return MountFlag.parse(text).mount()


def test_bind_is_the_default() -> None:
    """Without a type a mount is a read-only bind mount."""
    assert mount("target=/x") == Mount(MountType.BIND, target="/x", read_only=True)
    assert mount("target=/x,rw") == Mount(MountType.BIND, target="/x", read_only=False)
    assert mount("target=/x,rw=false").read_only
    assert not mount("target=/x,ro=0").read_only


def test_cache() -> None:
    """A cache mount is writable and has sharing, mode and owner."""
    assert mount("type=cache,target=/c,id=i,sharing=Locked,mode=0750,uid=7,gid=8") == Mount(
        MountType.CACHE,
        target="/c",
        id="i",
        sharing=Sharing.LOCKED,
        mode=0o750,
        uid=7,
        gid=8,
        read_only=False,
    )


def test_secret_ssh_tmpfs() -> None:
    """The other types have their own keys."""
    assert mount("type=secret,id=k,env=K,required") == Mount(
        MountType.SECRET, id="k", env="K", required=True
    )
    assert mount("type=ssh,required=true").required
    assert mount("type=tmpfs,target=/t,size=1g") == Mount(
        MountType.TMPFS, target="/t", size=1 << 30, read_only=False
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key ''"),
        ("target", "needs a value"),
        ("traget=/x", "no key 'traget'"),
        ("type=nfs", "not a mount type"),
        ("type=cache,sharing=all", "not a sharing"),
        ("type=bind,mode=755", "mode means nothing for a bind"),
        ("type=tmpfs,uid=1", "uid means nothing for a tmpfs"),
        ("type=bind,required", "required means nothing"),
        ("type=bind,size=1", "size means nothing"),
        ("type=bind,sharing=shared", "sharing means nothing"),
        ("type=ssh,source=x", "has no source"),
        ("type=cache,mode=9", "not a mode"),
        ("type=cache,uid=-1", "not a uid"),
        ("type=cache,gid=4294967296", "not a gid"),
        ("type=secret", "needs id, source or target"),
        ("type=secret,id=a,source=b", "either source or id"),
        ("type=secret,id=a,from=b", "no from"),
        ("target=/x,ro=perhaps", "neither true nor false"),
        ("from=a$b,target=/x", "cannot name variables"),
        ('"target=/x', "unbalanced quotes"),
        ('a"b', "a quote in the middle"),
    ],
)
def test_wrong_mounts(text: str, message: str) -> None:
    """Unknown keys and meaningless combinations are refused."""
    with pytest.raises(Problem, match=message):
        mount(text)


def test_variables_wait() -> None:
    """Values with variables are typed once they are expanded; keys are checked at once."""
    flag = MountFlag.parse("type=$T,target=/x,from=stage")
    assert not flag.is_constant
    assert flag.from_ == "stage"
    expanded = flag.expand(lambda value: value.replace("$T", "cache"))
    assert expanded.mount().type is MountType.CACHE
    assert MountFlag.parse("target=/x").from_ == ""


def test_csv() -> None:
    """Fields may be quoted, with doubled quotes inside."""
    assert split_csv("a,b") == ["a", "b"]
    assert split_csv('"a,""b""",c,') == ['a,"b"', "c", ""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vendor.com/gpu=all", Device("vendor.com/gpu=all")),
        ("vendor.com/gpu", Device("vendor.com/gpu")),
        ("name=vendor.com/gpu=1,required", Device("vendor.com/gpu=1", required=True)),
        ("vendor.com/gpu=1,required=false", Device("vendor.com/gpu=1")),
    ],
)
def test_devices(text: str, expected: Device) -> None:
    """A device is named first or by name=."""
    assert parse_device(text) == expected


@pytest.mark.parametrize("text", ["a.com/b,name=c.com/d", "a.com/b,requird"])
def test_wrong_devices(text: str) -> None:
    """Two names and unknown keys are refused."""
    with pytest.raises(Problem):
        parse_device(text)
