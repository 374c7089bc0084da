"""Secrets are blotted out, however a stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.build.redaction import MASK, Redactor


def shown(secrets: list[bytes], *pieces: bytes) -> bytes:
    """What is shown in the end."""
    redactor = Redactor(secrets)
    return b"".join(map(redactor.feed, pieces)) + redactor.finish()


@pytest.mark.parametrize(
    ("secrets", "text", "expected"),
    [
        ([b"hunter22"], b"the word is hunter22.", b"the word is ****."),
        ([b"hunter22\n"], b"hunter22 and hunter22", b"**** and ****"),
        ([b"hunter22"], b"hunter2", b"hunter2"),
        ([b"hunter22", b"hunter2233"], b"hunter2233 hunter22", b"**** ****"),
        ([b"abc"], b"abc is too short to hide", b"abc is too short to hide"),
        ([b""], b"anything", b"anything"),
        ([], b"anything", b"anything"),
        ([b"-----BEGIN\nlonglongline\nshort\n"], b"x longlongline y\nshort", b"x **** y\nshort"),
        ([b"\xff\x00\xfe\x01"], b"a\xff\x00\xfe\x01b", b"a****b"),
    ],
)
def test_what_is_shown(secrets: list[bytes], text: bytes, expected: bytes) -> None:
    """Whole secrets and their longer lines are masked; short ones stand everywhere by chance."""
    assert shown(secrets, text) == expected


def test_nothing_is_held_back_without_need() -> None:
    """What cannot become a secret is shown at once."""
    redactor = Redactor([b"hunter22"])
    assert redactor.feed(b"line\npart hun") == b"line\npart "
    assert redactor.feed(b"t") == b""
    assert redactor.feed(b"!") == b"hunt!"
    assert redactor.finish() == b""


@given(
    st.lists(st.binary(min_size=4, max_size=6).map(bytes.strip), max_size=3),
    st.lists(st.binary(max_size=9), max_size=6),
    st.data(),
)
def test_cuts_do_not_matter(secrets: list[bytes], parts: list[bytes], data: st.DataObject) -> None:
    """The same text, cut anywhere, is shown the same, and no secret is in it."""
    hidden = [secret for secret in secrets if len(secret) >= 4]
    for secret in hidden:
        parts.insert(data.draw(st.integers(0, len(parts))), secret)
    text = b"".join(parts)
    cut = data.draw(st.integers(0, len(text)))
    whole = shown(secrets, text)
    assert shown(secrets, text[:cut], text[cut:]) == whole
    assert not any(secret in whole.replace(MASK, b"\n") for secret in hidden if b"\n" not in secret)
