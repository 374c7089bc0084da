"""The image configuration: decoded with care, written back whole."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncbuild.image.config import (
    Healthcheck,
    HistoryEntry,
    ImageConfig,
    InvalidConfig,
    RuntimeConfig,
)
from asyncbuild.image.digest import DiffId
from asyncbuild.image.platform import Platform

AMD64 = Platform("linux", "amd64")

_TEXT = st.text(max_size=6)
_WORDS = st.lists(_TEXT, min_size=1, max_size=3).map(tuple)
_NONE = st.none()
_HEALTH = st.builds(Healthcheck, _WORDS, *([st.integers(0, 2**40)] * 4), st.integers(0, 9))
# Names that we do not know, and that the decoder must keep.
_EXTRA = st.dictionaries(
    st.sampled_from(["ArgsEscaped", "Domainname", "x"]),
    st.one_of(_TEXT, st.integers(), st.booleans()),
)
_RUNTIMES = st.builds(
    RuntimeConfig,
    user=_TEXT,
    env=st.lists(_TEXT, max_size=3).map(tuple),
    entrypoint=_NONE | _WORDS,
    cmd=_NONE | _WORDS,
    working_dir=_TEXT,
    exposed_ports=st.frozensets(_TEXT, max_size=2),
    volumes=st.frozensets(_TEXT, max_size=2),
    labels=st.dictionaries(_TEXT, _TEXT, max_size=2),
    stop_signal=_TEXT,
    healthcheck=_NONE | _HEALTH,
    shell=_NONE | _WORDS,
    on_build=st.lists(_TEXT, max_size=2).map(tuple),
    extra=_EXTRA,
)
_HISTORY = st.builds(HistoryEntry, _TEXT, _NONE | _TEXT, _TEXT, _TEXT, st.booleans())
_CONFIGS = st.builds(
    ImageConfig,
    st.builds(Platform, _TEXT, _TEXT, _TEXT, _TEXT),
    _RUNTIMES,
    st.lists(st.binary(max_size=2).map(DiffId.of), max_size=3).map(tuple),
    st.lists(_HISTORY, max_size=3).map(tuple),
    _NONE | _TEXT,
    _TEXT,
    st.dictionaries(st.sampled_from(["docker_version", "os.features", "y"]), _TEXT),
)


@given(_CONFIGS)
def test_round_trip(config: ImageConfig) -> None:
    """A configuration is decoded as it was encoded; encoding it again gives the same bytes."""
    raw = config.encode()
    assert ImageConfig.parse(raw) == config
    assert ImageConfig.parse(raw).encode() == raw


def test_order_does_not_matter() -> None:
    """Equal configurations give equal bytes, whatever order their labels and ports were set in."""
    one = RuntimeConfig(labels={"a": "1", "b": "2"}, volumes=frozenset(["/x", "/y"]))
    two = RuntimeConfig(labels={"b": "2", "a": "1"}, volumes=frozenset(["/y", "/x"]))
    assert ImageConfig(AMD64, one).encode() == ImageConfig(AMD64, two).encode()


def test_a_real_configuration() -> None:
    """What docker wrote is understood field by field, null and unknown fields included."""
    value = {
        "architecture": "arm",
        "variant": "v7",
        "os": "linux",
        "created": "2024-05-06T07:08:09.123456789Z",
        "author": "me",
        "container": "0123",
        "config": {
            "Hostname": "h",
            "User": "1000:1000",
            "Env": ["PATH=/bin", "A=b=c"],
            "Cmd": None,
            "Entrypoint": ["/bin/sh", "-c"],
            "ExposedPorts": {"80/tcp": {}},
            "Volumes": None,
            "Labels": {"k": "v"},
            "OnBuild": None,
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 2},
            "ArgsEscaped": True,
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "a" * 64]},
        "history": [{"created_by": "x", "empty_layer": True}, {"created": "t", "comment": "c"}],
    }
    config = ImageConfig.parse(json.dumps(value).encode())
    assert config.platform == Platform("linux", "arm", "v7")
    assert config.created == "2024-05-06T07:08:09.123456789Z"
    assert config.diff_ids == (DiffId("sha256", "a" * 64),)
    assert config.history == (HistoryEntry("x", empty_layer=True), HistoryEntry("", "t", "c"))
    assert config.extra == {"container": "0123"}
    assert config.runtime == RuntimeConfig(
        user="1000:1000",
        env=("PATH=/bin", "A=b=c"),
        entrypoint=("/bin/sh", "-c"),
        exposed_ports=frozenset(["80/tcp"]),
        labels={"k": "v"},
        healthcheck=Healthcheck(("CMD", "x"), interval=5, retries=2),
        extra={"Hostname": "h", "ArgsEscaped": True},
    )
    again = json.loads(config.encode())
    kept = {name: item for name, item in value["config"].items() if item is not None}  # type: ignore[attr-defined]
    assert again == {**value, "config": kept}


def test_an_old_entrypoint_that_is_a_text() -> None:
    """Very old images have a text where a list belongs; it is one word, as in docker."""
    raw = b'{"config": {"Entrypoint": "/bin/tool", "Cmd": "a b"}, "rootfs": {}}'
    runtime = ImageConfig.parse(raw).runtime
    assert (runtime.entrypoint, runtime.cmd) == (("/bin/tool",), ("a b",))


@pytest.mark.parametrize(
    ("env", "after"),
    [
        ((), ("A=new",)),
        (("B=1",), ("B=1", "A=new")),
        (("A=1", "B=1"), ("A=new", "B=1")),
        (("AA=1", "a=1"), ("AA=1", "a=1", "A=new")),
        (("A",), ("A=new",)),
        (("A=1", "B=1", "A=2"), ("A=new", "B=1")),
    ],
)
def test_with_env(env: tuple[str, ...], after: tuple[str, ...]) -> None:
    """A variable is set in its place; there is one of it afterwards."""
    runtime = RuntimeConfig(env=env).with_env("A", "new")
    assert runtime.env == after
    assert runtime.environment["A"] == "new"


@given(st.lists(st.sampled_from(["A=1", "A=2", "B=", "C", "=x"])), st.sampled_from("ABCD"), _TEXT)
def test_what_is_set_is_seen(env: list[str], name: str, value: str) -> None:
    """After a variable is set it has that value, and all others have theirs."""
    before = RuntimeConfig(env=tuple(env))
    after = before.with_env(name, value)
    assert after.environment == {**before.environment, name: value}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"rootfs": {"diff_ids": ["sha256:1"]}}',
        b'{"rootfs": [1]}',
        b'{"config": [1]}',
        b'{"config": {"Labels": 5}}',
        b'{"config": {"Healthcheck": {"Interval": 1e999}}}',
        b'{"config": {"Healthcheck": {"Interval": "x"}}}',
        b'{"config": {"Env": 5}}',
        b'{"history": [5]}',
        b'{"history": 5}',
        b"[" * 100_000,
    ],
)
def test_refused(raw: bytes) -> None:
    """What is not a configuration is refused, never with another error."""
    with pytest.raises(InvalidConfig):
        ImageConfig.parse(raw)


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
# An empty list and none are written alike, as docker writes them: the bytes are what must be stable.
_FIELDS = ["Env", "Cmd", "Labels", "Volumes", "ExposedPorts", "Healthcheck", "User", "Shell"]


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["os", "config", "rootfs", "history", "created", "author", "x"]),
        _JSON
        | st.dictionaries(st.sampled_from(_FIELDS), _JSON)
        | st.fixed_dictionaries(
            {"Healthcheck": st.dictionaries(st.sampled_from(["Test", "Interval"]), _JSON)}
        ),
    )
)
@example({"config": {"Volumes": [None, False], "ExposedPorts": [1, "1"]}})
def test_any_json(document: dict[str, Any]) -> None:
    """Whatever a registry answers is decoded, and can be encoded again, or is refused."""
    try:
        config = ImageConfig.parse(json.dumps(document).encode())
    except InvalidConfig:
        return
    assert ImageConfig.parse(config.encode()).encode() == config.encode()
