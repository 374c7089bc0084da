"""Scopes, and the token conversation without a network."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from asyncbuild.errors import (
    AsyncbuildError,
    NotAuthorized,
    RateLimited,
    RegistryUnavailable,
    RemoteProtocolError,
)
from asyncbuild.registry.auth import (
    ANONYMOUS,
    Credential,
    Grant,
    Scope,
    TokenAnswer,
    TokenRequest,
    Wish,
    check_realm,
    choose_challenge,
    covers,
    join_scopes,
    token_flow,
)
from asyncbuild.registry.challenge import Challenge

BEARER = Challenge("bearer", {"realm": "https://auth.example/token", "service": "registry.example"})
BASIC = Challenge("basic", {"realm": "x"})
BOB = Credential("bob", "secret")
PULL = frozenset({Scope.of("library/a", "pull")})
PUSH = frozenset({Scope.of("team/b", "push")})


def token(value: str = "t", **more: object) -> TokenAnswer:
    """A good answer of the service."""
    return TokenAnswer(200, json.dumps({"token": value, **more}).encode())


def converse(
    challenge: Challenge, credential: Credential, wish: Wish, *answers: TokenAnswer
) -> tuple[list[TokenRequest], Grant]:
    """Run a conversation at time 1000; returns what it asked and what came of it."""
    flow = token_flow(challenge, credential, wish, 1000.0)
    asked: list[TokenRequest] = []
    try:
        asked.append(next(flow))
        for answer in answers:
            asked.append(flow.send(answer))
    except StopIteration as stop:
        return asked, stop.value
    raise AssertionError(f"it asks on: {asked}")


def test_scopes_join_by_repository() -> None:
    """One scope per repository with the actions of all; push brings pull."""
    joined = join_scopes([*PULL, *PUSH, Scope.of("library/a", "delete")])
    assert sorted(scope.text for scope in joined) == [
        "repository:library/a:pull,delete",
        "repository:team/b:pull,push",
    ]
    assert covers(joined, PULL)
    assert covers(joined, PUSH | PULL)
    assert not covers(PULL, PUSH)
    assert not covers(PULL, frozenset({Scope.of("library/a", "push")}))


def test_anonymous_token() -> None:
    """Without a login the service is asked without authorization, with one scope per repository."""
    asked, grant = converse(BEARER, ANONYMOUS, Wish("r", PULL, PUSH), token(expires_in=300))
    assert [(request.method, request.authorization, request.form) for request in asked] == [
        ("GET", None, None)
    ]
    assert parse_qs(urlsplit(asked[0].url).query) == {
        "service": ["registry.example"],
        "scope": ["repository:library/a:pull", "repository:team/b:pull,push"],
    }
    assert grant == Grant("Bearer t", PULL | PUSH, 1290.0)


def test_realm_with_a_query() -> None:
    """A realm may have parameters already; one without a service gets none."""
    challenge = Challenge("bearer", {"realm": "https://auth.example/token?account=x"})
    asked, _ = converse(challenge, ANONYMOUS, Wish("r", PULL), token())
    assert asked[0].url == "https://auth.example/token?account=x&scope=repository:library/a:pull"


def test_password() -> None:
    """A login with a password goes to the service as Basic authorization."""
    asked, grant = converse(BEARER, BOB, Wish("r", PULL), token())
    expected = base64.b64encode(b"bob:secret").decode()
    assert asked[0].authorization == f"Basic {expected}"
    assert grant.expires == 1000 + 60 - 6


def test_identity_token() -> None:
    """An identity token is exchanged by POST."""
    credential = Credential("<token>", identity_token="refresh me")
    asked, grant = converse(
        BEARER, credential, Wish("r", PULL), TokenAnswer(200, b'{"access_token":"t"}')
    )
    assert (asked[0].method, asked[0].url, asked[0].authorization) == (
        "POST",
        BEARER.get("realm"),
        None,
    )
    assert asked[0].form is not None
    assert dict(parse_qsl(asked[0].form.decode())) == {
        "grant_type": "refresh_token",
        "service": "registry.example",
        "client_id": "asyncbuild",
        "scope": "repository:library/a:pull",
        "refresh_token": "refresh me",
    }
    assert grant.authorization == "Bearer t"


def test_registry_token_and_basic_ask_nobody() -> None:
    """A registry token is sent as it is; a Basic challenge needs no conversation; both serve everything."""
    mine = Credential(registry_token="mine", expires=9.0)
    asked, grant = converse(BEARER, mine, Wish("r", PULL))
    assert (asked, grant) == ([], Grant("Bearer mine", None, 9.0, mine))
    asked, grant = converse(BASIC, BOB, Wish("r", PULL))
    assert (asked, grant.scopes) == ([], None)
    assert grant.serves(PULL | PUSH, 1e12)


def test_refused_joined_scopes_are_asked_alone() -> None:
    """A service that refuses several scopes is asked for the needed ones once more."""
    asked, grant = converse(BEARER, BOB, Wish("r", PULL, PUSH), TokenAnswer(403), token())
    assert [parse_qs(urlsplit(request.url).query)["scope"] for request in asked] == [
        ["repository:library/a:pull", "repository:team/b:pull,push"],
        ["repository:library/a:pull"],
    ]
    assert grant.scopes == PULL


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([TokenAnswer(401, b'{"details":"incorrect username or password"}')], NotAuthorized),
        ([TokenAnswer(500)], RegistryUnavailable),
        ([TokenAnswer(429)], RateLimited),
        ([TokenAnswer(404)], RemoteProtocolError),  # no image is missing: the service is
        ([TokenAnswer(200, b"not JSON")], RemoteProtocolError),
        ([TokenAnswer(200, b"[]")], RemoteProtocolError),
        ([TokenAnswer(200, b'{"token":""}')], RemoteProtocolError),
        ([TokenAnswer(200, b'{"token":"a\\r\\nX: y"}')], RemoteProtocolError),
    ],
)
def test_refusals(answers: list[TokenAnswer], kind: type[AsyncbuildError]) -> None:
    """Each way of not getting a token is an error of its kind; none shows a secret."""
    with pytest.raises(kind) as caught:
        converse(BEARER, BOB, Wish("registry.example", PULL), *answers)
    assert "secret" not in caught.value.render()


def test_refusal_names_the_user() -> None:
    """The error names the registry, the user, the scope and the service's words, and what to do."""
    with pytest.raises(NotAuthorized) as caught:
        converse(BEARER, BOB, Wish("registry.example", PULL), TokenAnswer(401, b'{"details":"no"}'))
    text = caught.value.render()
    assert "user 'bob'" in text
    assert "repository:library/a:pull" in text
    assert "401 no" in text
    assert "asyncbuild login registry.example" in text


def test_basic_without_login() -> None:
    """A registry that asks for a password gets an error that says so."""
    with pytest.raises(NotAuthorized, match="asks for a user name and a password"):
        converse(BASIC, ANONYMOUS, Wish("r", PULL))


@pytest.mark.parametrize("lifetime", [0, -1, True, "x", None])
def test_odd_lifetimes(lifetime: object) -> None:
    """A lifetime that is none is the specification's minute."""
    _, grant = converse(BEARER, ANONYMOUS, Wish("r", PULL), token(expires_in=lifetime))
    assert grant.expires == 1054.0


def test_choice_of_challenge() -> None:
    """Bearer with a realm goes before Basic; others are not answered."""
    assert choose_challenge([BASIC, BEARER]) is BEARER
    assert choose_challenge([Challenge("bearer"), BASIC]) is BASIC
    assert choose_challenge([Challenge("negotiate")]) is None
    assert choose_challenge([]) is None


@pytest.mark.parametrize(
    ("realm", "registry", "insecure", "good"),
    [
        ("https://auth.example/token", "https://r.example", False, True),
        ("https://auth.example/token", "http://localhost:5000", False, True),
        ("http://auth.example/token", "https://r.example", False, False),
        ("http://auth.example/token", "https://r.example", True, False),
        ("http://localhost:5001/token", "https://r.example", False, False),
        ("http://localhost:5001/token", "http://localhost:5000", False, True),
        ("http://auth.example/token", "http://localhost:5000", False, False),
        ("http://auth.example/token", "http://r.example", True, True),
        ("ftp://auth.example/token", "http://r.example", True, False),
        ("/token", "https://r.example", False, False),
        ("https:///token", "https://r.example", False, False),
    ],
)
def test_realms(realm: str, registry: str, *, insecure: bool, good: bool) -> None:
    """A login travels over https; over http only from a plain registry that may be plain."""
    if good:
        check_realm(realm, registry_url=registry, insecure=insecure)
    else:
        with pytest.raises(RemoteProtocolError, match="only over https"):
            check_realm(realm, registry_url=registry, insecure=insecure)


def test_secrets_are_not_shown() -> None:
    """Neither repr nor str of what holds a secret shows it."""
    shown = [
        Credential("bob", "secret", "secret", "secret"),
        Grant("Bearer secret", PULL),
        TokenRequest("GET", "https://x", "Basic secret", b"secret"),
        TokenAnswer(200, b"secret"),
    ]
    assert "secret" not in "".join(f"{item!r}{item}" for item in shown)
    assert str(ANONYMOUS) == "an anonymous user"
