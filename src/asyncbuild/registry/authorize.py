"""The authorization of one registry host: which header goes with a request, and what a 401 changes.

Requests of many tasks share it. Whoever needs a token that is not there takes the lock and fetches it;
the others find it when they get the lock: concurrent 401s cause one token request. A token is asked for
everything that the build is expected to do (`expect`), so a build needs one; if that is refused, each
request gets a token for itself. Repositories of one host may have logins of their own: a token is asked
with the login of the repository that a request is about, and for nothing that has another login.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import trio

from asyncbuild.errors import Exchange, NotAuthorized, RegistryError
from asyncbuild.registry.auth import (
    Credential,
    Grant,
    Scope,
    Scopes,
    TokenAnswer,
    TokenFlow,
    TokenRequest,
    Wish,
    check_realm,
    chief_repository,
    choose_challenge,
    join_scopes,
    login_hint,
    token_flow,
)
from asyncbuild.registry.challenge import Challenge
from asyncbuild.registry.credentials import Keychain
from asyncbuild.registry.reach import check_place


class Realms:
    """The challenges that hosts are known to make: a later client begins with a token, not with a 401."""

    def __init__(self) -> None:
        self._challenges: dict[str, Challenge] = {}

    def remember(self, host: str, challenge: Challenge) -> None:
        """Keep what ``host`` asked for last."""
        self._challenges[host] = challenge

    def get(self, host: str) -> Challenge | None:
        """What ``host`` asks for, if it is known."""
        return self._challenges.get(host)

    def forget(self, host: str) -> None:
        """Know nothing of ``host``."""
        self._challenges.pop(host, None)


class TokenService(Protocol):
    """What an `Authorizer` needs of the network."""

    async def fetch_token(self, request: TokenRequest) -> TokenAnswer:
        """Carry one request out; raises `RegistryUnavailable` without an answer."""

    async def base_url(self) -> str:
        """The registry's scheme and host."""


class Authorizer:
    """Finds the Authorization header of requests to one registry.

    ``insecure``: the user declared the host insecure, so that a login may travel over http.
    """

    def __init__(
        self,
        registry: str,
        keychain: Keychain,
        service: TokenService,
        realms: Realms,
        *,
        insecure: bool = False,
    ) -> None:
        self.registry = registry
        self._keychain = keychain
        self._service = service
        self._realms = realms
        self._insecure = insecure
        self._expected: Scopes = frozenset()
        self._grants: list[Grant] = []
        self._one_by_one = False
        self._challenged = False
        self._credential: Credential | None = None
        self._lock = trio.Lock()

    def expect(self, scope: Scope) -> None:
        """Say ahead that the build will need ``scope``: it joins the next token request."""
        self._expected = join_scopes([*self._expected, scope])

    @property
    def realm(self) -> str:
        """The URL of the token service, "" if none is known."""
        challenge = self._realms.get(self.registry)
        return challenge.get("realm") if challenge and challenge.scheme == "bearer" else ""

    async def header(self, needed: Scopes) -> str | None:
        """The header for a request that needs ``needed``; None while the host has asked for none.

        What is only remembered of the host may be out of date: then it is asked itself.
        """
        if self._realms.get(self.registry) is None:
            return None
        try:
            return await self._authorization(needed, alone=False)
        except RegistryError:
            if self._challenged:
                raise
            self._realms.forget(self.registry)
            return None

    async def renew(
        self, needed: Scopes, refused: str | None, challenges: Iterable[Challenge], *, first: bool
    ) -> str | None:
        """The header to try after a 401 for ``refused``; None if there is nothing else to try.

        ``first`` says that no header was made for this very request yet: a token that is refused then
        has probably expired on the other side, and a new one like it is fetched. A token that is new, or
        whose refusal says ``insufficient_scope`` (RFC 6750, 3.1), is replaced by one for ``needed`` alone.
        """
        challenge = choose_challenge(challenges)
        if challenge is None:
            return None
        self._realms.remember(self.registry, challenge)
        self._challenged = True
        held = next((grant for grant in self._grants if grant.authorization == refused), None)
        if held is None:
            return await self._authorization(needed, alone=False)
        if held.scopes is None:
            return None
        if first and challenge.get("error") != "insufficient_scope":
            self._grants.remove(held)
            return await self._authorization(needed, alone=False)
        if held.scopes == needed:
            return None
        self._withdraw(held, needed)
        return await self._authorization(needed, alone=True)

    def _withdraw(self, held: Grant, needed: Scopes) -> None:
        """Never use ``held`` for ``needed`` again; it may still serve other repositories."""
        self._one_by_one = True
        names = {scope.repository for scope in needed}
        left = frozenset(scope for scope in held.scopes or () if scope.repository not in names)
        self._grants.remove(held)
        if left:
            self._grants.append(Grant(held.authorization, left, held.expires))

    async def _find(self, needed: Scopes) -> str | None:
        now = trio.current_time()
        for grant in tuple(self._grants):
            fits = grant.login is None or grant.login == await self._login(needed)
            if fits and grant.serves(needed, now):
                return grant.authorization
        return None

    async def _authorization(self, needed: Scopes, *, alone: bool) -> str:
        found = await self._find(needed)
        if found is not None:
            return found
        async with self._lock:
            found = await self._find(needed)
            if found is not None:
                return found
            grant = await self._fetch(needed, alone=alone)
            now = trio.current_time()
            self._grants = [held for held in self._grants if now < held.expires]
            self._grants.append(grant)
            return grant.authorization

    async def _fetch(self, needed: Scopes, *, alone: bool) -> Grant:
        challenge = self._realms.get(self.registry)
        if (
            challenge is None
        ):  # a request beside this one found out that what was remembered is wrong
            raise RegistryError(f"{self.registry} is no longer known to want a login")
        if challenge.scheme == "bearer":
            base_url = await self._service.base_url()
            realm = challenge.get("realm")
            check_realm(realm, registry_url=base_url, insecure=self._insecure)
            check_place(base_url, realm)
        login = await self._login(needed)
        expected = frozenset() if alone or self._one_by_one else await self._expected_of(login)
        wish = Wish(self.registry, needed, expected)
        flow = token_flow(challenge, login, wish, trio.current_time())
        grant = await run_token_flow(flow, self._service)
        if grant.scopes is not None and grant.scopes != wish.joined:
            self._one_by_one = True
        return grant

    async def _login(self, needed: Scopes) -> Credential:
        repository = chief_repository(needed)
        self._credential = await self._keychain.credential(self.registry, repository)
        return self._credential

    async def _expected_of(self, login: Credential) -> Scopes:
        """What is expected besides, as far as it has the same login."""
        return frozenset(
            [
                scope
                for scope in self._expected
                if await self._keychain.credential(self.registry, scope.repository) == login
            ]
        )

    def refusal(self, what: str, exchange: Exchange) -> NotAuthorized:
        """The error when every way was refused."""
        user = self._credential or "an anonymous user"
        known = self._credential is not None and not self._credential.anonymous
        hint = None if known else login_hint(self.registry)
        return NotAuthorized(
            f"{self.registry} does not let {user} {what}", exchange=exchange, hint=hint
        )


async def run_token_flow(flow: TokenFlow, service: TokenService) -> Grant:
    """Carry a token conversation's requests out."""
    try:
        request = next(flow)
        while True:
            request = flow.send(await service.fetch_token(request))
    except StopIteration as stop:
        grant: Grant = stop.value
        return grant
