"""Patience and redirects."""

from __future__ import annotations

import pytest
import trio

from asyncbuild.errors import (
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    RemoteProtocolError,
)
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.testing.faults import Action, Drop, Hang, Respond, Rule, WithHeaders
from asyncbuild.testing.registry import RegistryDouble
from support.double import with_client


async def get(client: RegistryClient) -> float:
    """Fetch a manifest; returns how many seconds it took."""
    started = trio.current_time()
    await client.get_manifest("a", "latest")
    return trio.current_time() - started


def asking(*rules: Rule) -> tuple[RegistryDouble, float]:
    """Fetch a manifest from a double with these faults."""
    double = RegistryDouble()
    double.add_image("a", "latest")
    double.faults.add(*rules)
    return double, with_client(double, get)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_statuses(status: int) -> None:
    """An answer that may be another one later is asked for again, after a pause."""
    double, seconds = asking(Rule(Respond(status), times=2))
    assert [entry.status for entry in double.log] == [status, status, 200]
    assert 0.15 + 0.3 <= seconds <= 0.3 + 0.6


@pytest.mark.parametrize("action", [Drop(), Hang()])
def test_no_answer(action: Action) -> None:
    """A connection that breaks, or on which nothing comes for a minute, is tried again."""
    double, seconds = asking(Rule(action))
    assert len(double.log) == 2
    assert (seconds > 60) is isinstance(action, Hang)


def test_answer_that_breaks_off() -> None:
    """A manifest of which only a part comes is asked for again."""
    double, _ = asking(Rule(Drop(after=10)))
    assert [(entry.status, entry.bytes_out > 10) for entry in double.log] == [
        (200, False),
        (200, True),
    ]


@pytest.mark.parametrize("status", [400, 404, 405, 410, 501])
def test_lasting_statuses(status: int) -> None:
    """What will not change is asked once."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(status), times=None))
    with pytest.raises(RegistryError):
        with_client(double, get)
    assert len(double.log) == 1


def test_retry_after_is_obeyed() -> None:
    """A registry that says when to come back is asked then."""
    _, seconds = asking(Rule(Respond(429, headers={"retry-after": "7"})))
    assert 7 <= seconds <= 7.3


def test_retry_after_is_too_long() -> None:
    """A registry that wants more patience than a build has is an error at once."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(429, b"too many", {"retry-after": "3600"}), times=None))
    with pytest.raises(RateLimited, match="429 too many"):
        with_client(double, get)
    assert len(double.log) == 1


def test_it_gives_up() -> None:
    """After the last try comes the last error."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(503, b"maintenance"), times=None))
    with pytest.raises(RegistryUnavailable, match="503 maintenance"):
        with_client(double, get, RegistrySettings(policy=RetryPolicy(attempts=3)))
    assert len(double.log) == 3


def test_token_service_is_not_asked_twenty_times() -> None:
    """Tries of the token request and of the request that wants it do not multiply."""
    double = RegistryDouble()
    challenge = 'Bearer realm="https://auth.example/token"'
    double.faults.add(
        Rule(Respond(401, headers={"www-authenticate": challenge}), path="^/v2", times=None)
    )
    double.faults.add(Rule(Drop(), path="^/token", times=None))
    with pytest.raises(RegistryUnavailable):
        with_client(double, get)
    assert len(double.log) == 1 + 5


def test_redirect_on_the_same_host() -> None:
    """A redirect of a GET is followed, with the authorization if the origin is the same."""
    double = RegistryDouble()
    double.add_image("b", "latest")
    double.faults.add(
        Rule(Respond(307, headers={"location": "/v2/b/manifests/latest"}), path="/a/")
    )
    with_client(double, get)
    assert [entry.status for entry in double.log] == [307, 200]


@pytest.mark.parametrize(
    "location", ["", "http://elsewhere.example/x", "gopher://x/", "/v2/a/manifests/latest"]
)
def test_redirects_that_are_not_followed(location: str) -> None:
    """A redirect to nowhere, to plain http, or in a circle is an error."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(302, headers={"location": location}), times=None))
    with pytest.raises(RemoteProtocolError):
        with_client(double, get)
    assert len(double.log) <= 6


def test_redirect_of_a_push_is_not_followed() -> None:
    """Only reading follows a redirect."""
    double = RegistryDouble()
    image = double.add_image("a", "latest")
    double.faults.add(Rule(Respond(307, headers={"location": "/elsewhere"}), "PUT"))

    async def use(client: RegistryClient) -> None:
        await client.put_manifest("a", "latest", image.raw, image.media_type)

    with pytest.raises(RemoteProtocolError):
        with_client(double, use)
    assert len(double.log) == 1


def test_headers_of_an_error_are_harmless() -> None:
    """Odd Retry-After and Date headers change nothing."""
    rule = Rule(Respond(503, headers={"retry-after": "tomorrow", "date": "yesterday"}))
    assert asking(rule)[1] < 1
    assert asking(Rule(WithHeaders({"retry-after": "5"})))[1] == 0
