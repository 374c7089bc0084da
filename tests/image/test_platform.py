"""Platforms: their spellings, and which image runs where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.image.platform import Platform

AMD64 = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", AMD64),
        ("Linux/AMD64", AMD64),
        (" linux/amd64 ", AMD64),
        ("amd64", AMD64),
        ("x86_64", AMD64),
        ("linux/x86-64", AMD64),
        ("aarch64", Platform("linux", "arm64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("linux/arm/v7", Platform("linux", "arm", "v7")),
        ("linux/arm/7", Platform("linux", "arm", "v7")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
        ("armel", Platform("linux", "arm", "v6")),
        ("i386", Platform("linux", "386")),
        ("windows/amd64", Platform("windows", "amd64")),
        ("freebsd/riscv64", Platform("freebsd", "riscv64")),
    ],
)
def test_parsed(text: str, platform: Platform) -> None:
    """The spellings that people and kernels use become Go's."""
    assert Platform.parse(text) == platform


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "/amd64", "linux//v7", "a/b/c/d", "lniux", "linux", "darwin"]
)
def test_refused(text: str) -> None:
    """Empty parts, too many, and single words that are no architecture are refused."""
    with pytest.raises(ValueError, match="platform"):
        Platform.parse(text)


def test_a_bare_system() -> None:
    """``linux`` alone means this machine's architecture."""
    machine = Platform.of_machine("aarch64")
    assert Platform.parse("linux", machine) == Platform("linux", "arm64")
    assert Platform.parse("amd64", machine) == AMD64


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
        ("ppc64le", "linux/ppc64le"),
    ],
)
def test_machines(machine: str, text: str) -> None:
    """Kernels' names of machines."""
    assert str(Platform.of_machine(machine)) == text


@pytest.mark.parametrize(
    ("wanted", "offered", "accepted"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/amd64/v1", True),
        ("linux/amd64", "linux/amd64/v2", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm", "linux/arm/v7", True),
        ("linux/arm", "linux/arm/v6", False),
        ("linux/amd64", "linux/arm64", False),
        ("linux/amd64", "windows/amd64", False),
    ],
)
def test_accepts(wanted: str, offered: str, *, accepted: bool) -> None:
    """The variant that everyone means is the same as none."""
    assert Platform.parse(wanted).accepts(Platform.parse(offered)) == accepted


def test_spellings_of_registries() -> None:
    """An index entry may spell its architecture in its own way."""
    assert AMD64.accepts(Platform("linux", "x86_64"))
    assert Platform("linux", "arm64").accepts(Platform("linux", "aarch64", "8"))
    assert Platform("linux", "arm64").accepts(Platform("linux", "arm64", "v8.0"))


def test_versions_of_the_system() -> None:
    """A version is compared only where one is asked for."""
    old, new = (Platform("windows", "amd64", "", version) for version in ("10.0.1", "10.0.2"))
    assert Platform("windows", "amd64").accepts(old)
    assert old.accepts(old)
    assert not old.accepts(new)


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("linux/amd64", ["linux/amd64"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64/v1"]),
        ("linux/arm", ["linux/arm", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64/v9", ["linux/arm64/v9", "linux/arm64/v8"]),
        ("linux/s390x", ["linux/s390x"]),
        ("linux/arm/v99", ["linux/arm/v99"]),
    ],
)
def test_candidates(text: str, candidates: list[str]) -> None:
    """Lower variants run too, best first."""
    assert [str(item) for item in Platform.parse(text).candidates] == candidates


_WORD = st.text(st.sampled_from("abcv0123456789"), min_size=1, max_size=6)


@given(
    st.builds(Platform, _WORD, _WORD, st.one_of(st.just(""), _WORD), st.one_of(st.just(""), _WORD))
)
def test_json_round_trip(platform: Platform) -> None:
    """An entry's platform is decoded as it was encoded, and accepts itself."""
    assert Platform.from_json(platform.to_json()) == platform
    assert platform.accepts(platform)
    assert platform.candidates[0] == platform


@given(st.sampled_from(["amd64", "arm64", "arm", "386"]), st.sampled_from(["", "v5", "v7", "v8"]))
def test_text_round_trip(architecture: str, variant: str) -> None:
    """The text of a platform is read back."""
    platform = Platform("linux", architecture, variant)
    assert Platform.parse(str(platform)) == platform
