"""Getting a token: scopes, credentials, and the token conversation as a generator. Pure.

The conversation (`token_flow`) yields `TokenRequest` and is sent `TokenAnswer`; it returns a `Grant`.
It follows the distribution project's token specification ("Docker Registry v2 authentication via
central service", and its OAuth2 form for identity tokens):

1. Scopes are joined into one request: one ``scope`` parameter per repository.
2. A login with a password is a GET with Basic authorization; an identity token is a POST with
   ``grant_type=refresh_token``; without a login it is a GET without authorization.
3. If the service refuses the joined scopes (400, 401, 403), it is asked once more for those alone
   that the request at hand needs.
4. A login goes to the realm that the registry names, and only over https (`check_realm`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Iterable, Mapping
from urllib.parse import quote, urlencode, urlsplit

from asyncbuild.errors import Exchange, NotAuthorized, RegistryError, RemoteProtocolError
from asyncbuild.records import dataclass, field
from asyncbuild.registry.challenge import Challenge
from asyncbuild.registry.protocol import failure, is_loopback, read_words, redact

CLIENT_ID = "asyncbuild"
DEFAULT_LIFETIME = 60.0
"""Seconds that a token lives if its answer does not say (token specification, ``expires_in``)."""

_REFUSALS = frozenset({400, 401, 403})


@dataclass(frozen=True, slots=True)
class Credential:
    """A login. ``identity_token`` is exchanged for tokens, ``registry_token`` is sent as it is.

    It ends at ``expires`` (seconds of the caller's clock). ``repr`` never shows a secret.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    expires: float = float("inf")

    @property
    def anonymous(self) -> bool:
        """Whether there is nothing to log in with."""
        return not (self.password or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The value of an Authorization header with user name and password."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    def __str__(self) -> str:
        if self.anonymous:
            return "an anonymous user"
        return f"user {self.username!r}" if self.username else "a token"


ANONYMOUS = Credential()


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be done with one repository; ``actions`` are ``pull``, ``push``, ``delete`` or ``*``."""

    repository: str
    actions: frozenset[str]

    @classmethod
    def of(cls, repository: str, *actions: str) -> Scope:
        """A scope; who may push also needs to pull (mounts, HEAD)."""
        return cls(
            repository, frozenset(actions) | ({"pull"} if "push" in actions else frozenset())
        )

    @property
    def text(self) -> str:
        """The form of a ``scope`` parameter, actions in the order pull, push, others."""
        order = {"pull": 0, "push": 1}
        actions = sorted(self.actions, key=lambda action: (order.get(action, 2), action))
        return f"repository:{self.repository}:{','.join(actions)}"


Scopes = frozenset[Scope]


def join_scopes(scopes: Iterable[Scope]) -> Scopes:
    """One scope per repository, with the actions of all."""
    actions: dict[str, frozenset[str]] = {}
    for scope in scopes:
        actions[scope.repository] = actions.get(scope.repository, frozenset()) | scope.actions
    return frozenset(Scope(repository, found) for repository, found in actions.items())


def chief_repository(scopes: Scopes) -> str:
    """The repository whose login a request is made with: the one that is pushed to, "" for none."""
    pushed = [scope.repository for scope in scopes if "push" in scope.actions]
    return min(pushed or [scope.repository for scope in scopes], default="")


def covers(held: Scopes, needed: Scopes) -> bool:
    """Whether a grant for ``held`` serves a request that needs ``needed``."""
    actions = {scope.repository: scope.actions for scope in held}
    return all(scope.actions <= actions.get(scope.repository, frozenset()) for scope in needed)


@dataclass(frozen=True, slots=True)
class Grant:
    """An Authorization header's value, what it is for, and when it ends (seconds of the caller's clock).

    ``scopes`` None serves everything that its ``login`` is for (Basic).
    """

    authorization: str = field(repr=False)
    scopes: Scopes | None
    expires: float = float("inf")
    login: Credential | None = None

    def serves(self, needed: Scopes, now: float) -> bool:
        """Whether to use it for ``needed`` at ``now``."""
        return now < self.expires and (self.scopes is None or covers(self.scopes, needed))


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request to the token service; ``form`` is the body of a POST (urlencoded)."""

    method: str
    url: str
    authorization: str | None = field(default=None, repr=False)
    form: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the token service answered."""

    status: int
    body: bytes = field(default=b"", repr=False)


TokenFlow = Generator[TokenRequest, TokenAnswer, Grant]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a token is wanted for: ``needed`` now, ``expected`` besides it in this build."""

    registry: str
    needed: Scopes
    expected: Scopes = frozenset()

    @property
    def joined(self) -> Scopes:
        """Everything in one request."""
        return join_scopes([*self.needed, *self.expected])


def choose_challenge(challenges: Iterable[Challenge]) -> Challenge | None:
    """The challenge that we answer: Bearer with a realm before Basic; None if there is neither."""
    found = {challenge.scheme: challenge for challenge in reversed(list(challenges))}
    bearer = found.get("bearer")
    return bearer if bearer is not None and bearer.get("realm") else found.get("basic")


def check_realm(realm: str, *, registry_url: str, insecure: bool) -> None:
    """Refuse a realm that a login must not be sent to.

    ``https`` is always good. ``http`` is good only if the registry itself was reached over http, and
    the realm's host is this machine or the registry was declared insecure.
    """
    try:
        parts = urlsplit(realm)
        good = bool(parts.hostname) and parts.port != 0 and realm.isprintable()
    except ValueError:  # half an IPv6 address, a port that is none
        good = False
    if good and parts.scheme == "https":
        return
    plain = good and parts.scheme == "http" and urlsplit(registry_url).scheme == "http"
    if plain and (insecure or is_loopback(parts.hostname or "")):
        return
    raise RemoteProtocolError(
        f"{registry_url} names {redact(realm)} as its token service: a login is sent only over https"
    )


def token_flow(challenge: Challenge, credential: Credential, wish: Wish, now: float) -> TokenFlow:
    """From a challenge to a `Grant`; raises `NotAuthorized` if the service refuses.

    ``now`` is the time at which the conversation begins: a grant's end counts from there.
    """
    if challenge.scheme == "basic":
        return _basic(credential, wish)
    if credential.registry_token:
        return Grant(f"Bearer {credential.registry_token}", None, credential.expires, credential)
    wanted = wish.joined
    request = _token_request(challenge, credential, wanted)
    answer = yield request
    if answer.status in _REFUSALS and wanted != wish.needed:
        wanted = wish.needed
        request = _token_request(challenge, credential, wanted)
        answer = yield request
    if answer.status != 200:
        raise _refusal(request, answer, credential, wish)
    token, lifetime = read_token(request, answer.body)
    return Grant(f"Bearer {token}", wanted, now + lifetime - min(10.0, lifetime / 10))


def _basic(credential: Credential, wish: Wish) -> Grant:
    if not credential.password:
        raise NotAuthorized(
            f"{wish.registry} asks for a user name and a password", hint=login_hint(wish.registry)
        )
    return Grant(credential.basic, None, credential.expires, credential)


def _token_request(challenge: Challenge, credential: Credential, scopes: Scopes) -> TokenRequest:
    realm, texts = challenge.get("realm"), sorted(scope.text for scope in scopes)
    if credential.identity_token:
        fields = {
            "grant_type": "refresh_token",
            "service": challenge.get("service"),
            "client_id": CLIENT_ID,
            "scope": " ".join(texts),
            "refresh_token": credential.identity_token,
        }
        return TokenRequest("POST", realm, form=urlencode(fields).encode("ascii"))
    pairs = [("scope", text) for text in texts]
    if challenge.get("service"):
        pairs.insert(0, ("service", challenge.get("service")))
    query = "&".join(f"{name}={quote(value, safe=':/,')}" for name, value in pairs)
    url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}" if query else realm
    return TokenRequest("GET", url, None if credential.anonymous else credential.basic)


def read_token(request: TokenRequest, body: bytes) -> tuple[str, float]:
    """The token of an answer, and how many seconds it lives; `RemoteProtocolError` if it has none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, Mapping):
        document = {}
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        exchange = Exchange(request.method, redact(request.url), 200)
        raise RemoteProtocolError("the token service's answer holds no token", exchange=exchange)
    lifetime = document.get("expires_in")
    if not isinstance(lifetime, int | float) or isinstance(lifetime, bool) or lifetime <= 0:
        return token, DEFAULT_LIFETIME
    return token, float(lifetime)


def _refusal(
    request: TokenRequest, answer: TokenAnswer, credential: Credential, wish: Wish
) -> RegistryError:
    words = read_words(answer.body)
    exchange = Exchange(request.method, redact(request.url), answer.status, words.text)
    if answer.status == 404:  # of the service, not of an image
        return RemoteProtocolError(
            f"{wish.registry} names a token service that is not there", exchange=exchange
        )
    if answer.status not in _REFUSALS:
        return failure(f"no token for {wish.registry}", exchange, words)
    wants = ", ".join(sorted(scope.text for scope in wish.needed)) or "access"
    return NotAuthorized(
        f"the token service of {wish.registry} refuses {credential} ({wants})",
        exchange=exchange,
        hint=login_hint(wish.registry),
    )


def login_hint(registry: str) -> str:
    """What a person can do about a refusal."""
    return f"log in with `asyncbuild login {registry}`, or check the login in docker's config.json"
