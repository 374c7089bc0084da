"""Digests and diff ids."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.image.digest import DiffId, Digest, InvalidDigest, chain_id

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_of_bytes() -> None:
    """The sha256 of nothing is known to everyone."""
    assert str(Digest.of(b"")) == f"sha256:{EMPTY}"
    assert Digest.of(memoryview(b"abc")[1:1]) == Digest.of(b"")
    assert Digest.of(b"").short == EMPTY[:12]


@given(st.binary())
def test_round_trip_and_match(data: bytes) -> None:
    """A digest is read back from its text, and matches only its bytes."""
    digest = Digest.of(data)
    assert Digest.parse(str(digest)) == digest
    assert digest.matches(data)
    assert not digest.matches(data + b"x")


def test_sha512() -> None:
    """Blobs may be named by sha512."""
    digest = Digest.parse("sha512:" + hashlib.sha512(b"x").hexdigest())
    assert digest.matches(b"x")
    assert not digest.matches(b"y")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        EMPTY,
        f"sha256:{EMPTY[:-1]}",
        f"sha256:{EMPTY}0",
        f"sha256:{EMPTY.upper()}",
        f"sha512:{EMPTY}",
        f"sha384:{EMPTY}{EMPTY[:32]}",
        f"md5:{EMPTY[:32]}",
        f"SHA256:{EMPTY}",
        f" sha256:{EMPTY}",
        f"sha256:{EMPTY}\n",
        f"sha256:{'g' * 64}",
        f"sha256:../{EMPTY[3:]}",
        f"sha256:{'٣' * 64}",
    ],
)
def test_refused(text: str) -> None:
    """Other algorithms, lengths, letters, and anything that could be a path are refused."""
    with pytest.raises(InvalidDigest):
        Digest.parse(text)


def test_the_two_are_never_mixed() -> None:
    """A digest and a diff id of the same bytes are different and cannot be compared by order."""
    digest, diff_id = Digest.of(b""), DiffId.of(b"")
    assert digest != diff_id  # type: ignore[comparison-overlap]
    assert len({digest, diff_id}) == 2
    with pytest.raises(TypeError):
        sorted([digest, diff_id])


def test_chain_ids() -> None:
    """A chain of one is its diff id; of two, the digest of both texts (OCI image specification)."""
    first, second, third = DiffId.of(b"1"), DiffId.of(b"2"), DiffId.of(b"3")
    assert chain_id(None, first) == first
    two = chain_id(first, second)
    assert two.hex == hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_id(two, third) != chain_id(chain_id(first, third), second)
