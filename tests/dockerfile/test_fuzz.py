"""Whatever is read gives a Dockerfile, or an error that says where: parser, plan and checks."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError
from support.fuzz import read
from support.grammar import dockerfiles


@settings(max_examples=300)
@given(dockerfiles())
def test_grammar(text: str) -> None:
    """Files that the grammar makes."""
    read(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=200)
@given(st.binary(max_size=80).map(lambda tail: b"FROM a\n" + tail))
@example(b"FROM a\n\xff")
@example(b"\xef\xbb\xbfFROM a")
def test_bytes(text: bytes) -> None:
    """Files that are hardly text."""
    read(text)


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nRUN " + "\\\n" * 20_000 + "x",
        "FROM a\nENV a=" + "${b:-" * 5_000 + "x" + "}" * 5_000,
        "FROM a\nCMD " + "[" * 50_000,
        "FROM a\nRUN " + "<<E " * 3_000 + "\n" + "E\n" * 3_000,
        "FROM a\n" + "ENV a=b\n" * 5_000,
        "FROM a\nCOPY " + "x " * 50_000 + "/y",
        "FROM a\nENV x=a\nCOPY ${x//" + "*" * 200 + "/b} /y",
        "ARG a=" + "'" * 10_001 + "\nFROM a",
        "FROM a\nRUN --mount=" + "," * 20_000 + " x",
        "FROM a\nRUN " + "apt-get " * 20_000 + "\nRUN " + "pip install " * 10_000,
    ],
    ids=lambda text: text[7:24],
)
def test_long_inputs(text: str) -> None:
    """Length alone makes nothing slow: each of these is read in far less than a second."""
    read(text.encode())


def test_a_position_is_checked() -> None:
    """The checker itself would notice an error without a place."""
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile("FROM a\nNONSENSE")
    assert caught.value.location is not None
    assert caught.value.location.line == 2
