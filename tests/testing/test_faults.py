"""Which requests a rule strikes."""

from __future__ import annotations

import pytest

from asyncbuild.testing.faults import Action, Delay, Drop, Faults, Respond, Rule


@pytest.mark.parametrize(
    ("rule", "struck"),
    [
        (Rule(Drop()), [1]),
        (Rule(Drop(), nth=3), [3]),
        (Rule(Drop(), nth=2, times=2), [2, 3]),
        (Rule(Drop(), nth=2, times=None), [2, 3, 4, 5]),
        (Rule(Drop(), times=0), []),
    ],
)
def test_which_of_the_matching(rule: Rule, struck: list[int]) -> None:
    """The nth request that matches, and as many after it as is said."""
    faults = Faults(rule)
    actions = [faults.strike("GET", "/v2/") for _ in range(5)]
    assert [number for number, action in enumerate(actions, 1) if action] == struck


def test_what_matches() -> None:
    """The method is equal, the path is searched; requests that do not match are not counted."""
    faults = Faults(Rule(Respond(500), "PUT", "manifests/v[0-9]$", nth=2))
    asked = [
        ("PUT", "/v2/a/manifests/v1"),
        ("GET", "/v2/a/manifests/v1"),
        ("PUT", "/v2/a/manifests/x"),
    ]
    assert [faults.strike(*request) for request in asked] == [None, None, None]
    assert faults.strike("PUT", "/v2/b/manifests/v2") == Respond(500)


def test_first_rule_decides() -> None:
    """Of two rules that strike one request the first does; both count it."""
    first: Action = Delay(1)
    faults = Faults(Rule(first, nth=2))
    faults.add(Rule(Drop(), nth=2, times=2))
    assert [faults.strike("GET", "/") for _ in range(3)] == [None, first, Drop()]
