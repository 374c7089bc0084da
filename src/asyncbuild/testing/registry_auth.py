"""Who may do what in a registry double, and its token service."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl


@dataclass(frozen=True, slots=True)
class Permission:
    """``user`` (None: anyone, logged in or not) may do ``actions`` in repositories that match."""

    repository: str
    actions: frozenset[str]
    user: str | None = None


PUBLIC_PULL = Permission(r".*", frozenset({"pull"}))


@dataclass(frozen=True, slots=True)
class OpenAccess:
    """Everybody may do everything, and is asked for nothing."""


@dataclass(frozen=True, slots=True)
class BasicAccess:
    """User names and passwords; who has one may do everything."""

    users: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TokenAccess:
    """Tokens. A logged-in user may do everything, unless ``permissions`` name that user.

    ``lifetime`` in seconds. Without ``joins`` the service refuses a request for several repositories.
    With ``strict`` it refuses what is not permitted, else it hands out a token for what is permitted.
    ``realm_host`` is where the service is said to be (None: the registry's own host).
    """

    users: Mapping[str, str] = field(default_factory=dict)
    permissions: tuple[Permission, ...] = (PUBLIC_PULL,)
    identity_tokens: Mapping[str, str] = field(default_factory=dict)
    lifetime: int = 300
    joins: bool = True
    strict: bool = False
    realm_host: str | None = None
    realm_scheme: str | None = None


Access = OpenAccess | BasicAccess | TokenAccess


@dataclass(frozen=True, slots=True)
class _Issued:
    scopes: frozenset[tuple[str, str]]
    expires: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request is let in; if not, the challenge."""

    allowed: bool
    challenge: str = ""


class Doorkeeper:
    """Checks Authorization headers and hands out tokens. Times are arguments."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._issued: dict[str, _Issued] = {}
        self._count = 0

    def revoke_all(self) -> None:
        """Forget every token that was handed out."""
        self._issued.clear()

    def check(
        self, authorization: str, needed: frozenset[tuple[str, str]], realm: str, now: float
    ) -> Verdict:
        """Whether a header permits ``needed``: pairs of repository and action."""
        access = self.access
        if isinstance(access, OpenAccess):
            return Verdict(allowed=True)
        if isinstance(access, BasicAccess):
            user = self._user(authorization, access.users)
            return Verdict(allowed=user is not None, challenge='Basic realm="the double"')
        issued = self._issued.get(authorization.removeprefix("Bearer "))
        if issued is not None and now < issued.expires and needed <= issued.scopes:
            return Verdict(allowed=True)
        challenge = f'Bearer realm="{realm}",service="the double"'
        scopes = _scope_texts(needed)
        if scopes:
            challenge += f',scope="{" ".join(scopes)}"'
        if issued is not None:
            expired = now >= issued.expires
            challenge += f',error="{"invalid_token" if expired else "insufficient_scope"}"'
        return Verdict(allowed=False, challenge=challenge)

    def token(
        self, authorization: str, query: Iterable[tuple[str, str]], form: bytes, now: float
    ) -> tuple[int, bytes]:
        """The token service: status and body."""
        access = self.access
        assert isinstance(access, TokenAccess)
        fields = dict(parse_qsl(form.decode("ascii")))
        if form:
            texts = fields.get("scope", "").split()
            user = access.identity_tokens.get(fields.get("refresh_token", ""))
            wrong = user is None
        else:
            texts = [value for name, value in query if name == "scope"]
            user = self._user(authorization, access.users)
            wrong = bool(authorization) and user is None
        if wrong:
            return 401, json.dumps({"details": "incorrect username or password"}).encode()
        wanted = frozenset(pair for text in texts for pair in _pairs(text))
        granted = frozenset(pair for pair in wanted if self._permits(user, *pair))
        refused = access.strict and granted != wanted
        if refused or (not access.joins and len({repository for repository, _ in wanted}) > 1):
            return 403, json.dumps({"details": "not permitted"}).encode()
        self._count += 1
        token = f"token-{self._count}"
        self._issued[token] = _Issued(granted, now + access.lifetime)
        return 200, json.dumps({"token": token, "expires_in": access.lifetime}).encode()

    def _permits(self, user: str | None, repository: str, action: str) -> bool:
        assert isinstance(self.access, TokenAccess)
        own = [entry for entry in self.access.permissions if entry.user == user and user]
        if user is not None and not own:
            return True
        anyone = [entry for entry in self.access.permissions if entry.user is None]
        return any(
            re.fullmatch(entry.repository, repository) and action in entry.actions
            for entry in (*own, *anyone)
        )

    @staticmethod
    def _user(authorization: str, users: Mapping[str, str]) -> str | None:
        if not authorization.startswith("Basic "):
            return None
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        name, _, password = pair.partition(":")
        return name if users.get(name) == password else None


def _pairs(scope: str) -> list[tuple[str, str]]:
    _, _, rest = scope.partition(":")
    repository, _, actions = rest.rpartition(":")
    return [(repository, action) for action in actions.split(",")]


def _scope_texts(needed: frozenset[tuple[str, str]]) -> list[str]:
    actions: dict[str, list[str]] = {}
    for repository, action in sorted(needed):
        actions.setdefault(repository, []).append(action)
    return [f"repository:{name}:{','.join(found)}" for name, found in actions.items()]
