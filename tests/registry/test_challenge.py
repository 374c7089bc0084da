"""WWW-Authenticate, read leniently and never wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.registry.challenge import Challenge, parse_challenges

BEARER = {"realm": "https://auth.example/token", "service": "registry.example"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="a registry"', [Challenge("basic", {"realm": "a registry"})]),
        ("Basic", [Challenge("basic")]),
        ("", []),
        (" , ", []),
        (
            'Bearer realm="https://auth.example/token",service="registry.example"',
            [Challenge("bearer", BEARER)],
        ),
        (
            'bearer Realm="https://auth.example/token" , SERVICE = "registry.example"',
            [Challenge("bearer", BEARER)],
        ),
        (
            "Bearer realm=https://auth.example/token,service=registry.example",
            [Challenge("bearer", BEARER)],
        ),
        (
            r'Basic realm="a \"quoted\" \\ name, with comma"',
            [Challenge("basic", {"realm": 'a "quoted" \\ name, with comma'})],
        ),
        (
            'Basic realm="x", Bearer realm="https://auth.example/token",service="registry.example"',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", BEARER)],
        ),
        (
            'Negotiate YWJj/+==, Basic realm="x"',
            [Challenge("negotiate", token68="YWJj/+=="), Challenge("basic", {"realm": "x"})],
        ),
        ("Negotiate, Basic", [Challenge("negotiate"), Challenge("basic")]),
        (
            'Bearer scope="repository:a/b:pull,push repository:c:pull",error="insufficient_scope"',
            [
                Challenge(
                    "bearer",
                    {
                        "scope": "repository:a/b:pull,push repository:c:pull",
                        "error": "insufficient_scope",
                    },
                )
            ],
        ),
        ('Basic realm="never closed', [Challenge("basic")]),
        ('Basic realm="first",realm="second"', [Challenge("basic", {"realm": "first"})]),
        ('Basic realm=""', [Challenge("basic", {"realm": ""})]),
    ],
)
def test_forms(header: str, expected: list[Challenge]) -> None:
    """Each form of the grammar, and those that registries send against it."""
    assert list(parse_challenges([header])) == expected


def test_several_headers() -> None:
    """Challenges of several headers are one list, in order."""
    found = parse_challenges(['Basic realm="x"', 'Bearer realm="y"'])
    assert [challenge.scheme for challenge in found] == ["basic", "bearer"]


@settings(deadline=None)
@given(st.text())
def test_any_text_ends(text: str) -> None:
    """Whatever a server sends is read without an error."""
    parse_challenges([text])


_WORD = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1)
_CHALLENGE = st.builds(
    Challenge, _WORD, st.dictionaries(_WORD, st.text(st.characters(min_codepoint=32)), min_size=1)
)


@settings(deadline=None)
@given(st.lists(_CHALLENGE, max_size=4))
def test_round_trip(challenges: list[Challenge]) -> None:
    """What is written by the grammar is read back, whatever stands in the quoted strings."""

    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{challenge.scheme} "
        + ", ".join(f"{name}={quoted(value)}" for name, value in challenge.parameters.items())
        for challenge in challenges
    )
    assert list(parse_challenges([header])) == challenges
