"""Rate limits that registries tell."""

from __future__ import annotations

import pytest

from asyncbuild.errors import RateLimited
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.limits import RateLimit
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.testing.faults import Respond, Rule, WithHeaders
from asyncbuild.testing.registry import RegistryDouble
from support.double import with_client


def headers(limit: str, remaining: str) -> dict[str, str]:
    """As Docker Hub sends them."""
    return {"ratelimit-limit": limit, "ratelimit-remaining": remaining}


@pytest.mark.parametrize(
    ("limit", "remaining", "found"),
    [
        ("100;w=21600", "76;w=21600", RateLimit(100, 76, 21600)),
        ("100", " 76 ", RateLimit(100, 76)),
        ("", "76", None),
        ("100;w=21600", "", None),
        ("many", "few", None),
        ("9" * 30, "1", None),
    ],
)
def test_headers(limit: str, remaining: str, found: RateLimit | None) -> None:
    """Both headers are needed; nonsense is as nothing."""
    assert RateLimit.read(headers(limit, remaining)) == found


def test_words() -> None:
    """As people read it."""
    assert str(RateLimit(100, 3, 21600)) == "3 of 100 pulls are left in 6 h"
    assert str(RateLimit(100, 3, 60)) == "3 of 100 pulls are left in 60 s"
    assert [RateLimit(100, left).is_near for left in (11, 10, 0)] == [False, True, True]


def test_a_limit_that_is_near_is_told_once() -> None:
    """A warning names the registry and what is left, whatever many answers say so."""
    double = RegistryDouble()
    blob = double.add_blob("a", b"x")
    double.faults.add(Rule(WithHeaders(headers("100;w=21600", "7;w=21600")), times=None))
    notices: list[str] = []

    async def use(client: RegistryClient) -> None:
        for _ in range(3):
            await client.get_blob("a", blob)

    with_client(double, use, RegistrySettings(on_notice=notices.append))
    assert notices == ["registry.example: 7 of 100 pulls are left in 6 h"]


def test_a_limit_that_is_reached() -> None:
    """The error says what the registry said of its limit."""
    double = RegistryDouble()
    limit = headers("100;w=21600", "0;w=21600")
    double.faults.add(Rule(Respond(429, headers=limit), times=None))

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "b")

    with pytest.raises(RateLimited) as caught:
        with_client(double, use, RegistrySettings(policy=RetryPolicy(attempts=1)))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("0 of 100 pulls are left in 6 h; logging in")
