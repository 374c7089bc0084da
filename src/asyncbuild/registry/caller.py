"""Authorised, patient exchanges with one registry: redirects, 401s and temporary failures are dealt with.

1. The Authorization header, and headers that the user wants to be sent, go to the registry's own origin
   (scheme, host, port) and nowhere else: not to the host that a redirect or an upload location names.
   Where these may lead is `reach`'s to say.
2. A 401 is answered by the `Authorizer`, at most three times.
3. A call is tried again after a temporary failure if its body can be sent again and ``Call.again`` allows.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from asyncbuild.errors import RateLimited, RegistryError, RemoteProtocolError
from asyncbuild.records import dataclass, field
from asyncbuild.registry.auth import Scopes, TokenAnswer, TokenRequest, read_token
from asyncbuild.registry.authorize import Authorizer
from asyncbuild.registry.bodies import Body, BytesBody
from asyncbuild.registry.challenge import parse_challenges
from asyncbuild.registry.habits import DownloadHabits, UploadHabits
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.limits import RateLimit
from asyncbuild.registry.protocol import (
    API_ROOT,
    REDIRECT_LIMIT,
    REDIRECTS,
    failure,
    origin,
    path_at,
    resolve_location,
)
from asyncbuild.registry.reach import check_place
from asyncbuild.registry.retry import (
    TEMPORARY_STATUSES,
    RetryBudget,
    RetryPolicy,
    retry_after,
)
from asyncbuild.registry.transport import Link
from asyncbuild.registry.wire import Answer, NoAnswer, Sent, Wire, no_answer_mapped

TOKEN_LIMIT = 1 << 20
_ROUNDS = 4
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """What to ask the registry.

    ``target`` is a path, or an absolute URL that the registry named. ``purpose`` completes "not allowed:
    …". ``expected`` are the statuses that are returned; every other one becomes an error.
    """

    method: str
    target: str
    purpose: str
    scopes: Scopes
    expected: frozenset[int] = frozenset({200})
    headers: tuple[tuple[str, str], ...] = ()
    body: Body | None = None
    again: bool = True
    receive_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """One try that failed, and what the server asked for: seconds to wait. ``advanced``: it moved much
    of a blob before it failed.
    """

    error: RegistryError
    temporary: bool
    wish: float | None = None
    advanced: bool = False


class Patience:
    """Tries again: a policy, a source of chance, what all hosts together may still try, trio's clock."""

    def __init__(
        self, policy: RetryPolicy, chance: random.Random, budget: RetryBudget | None = None
    ) -> None:
        self._policy = policy
        self._budget = budget or RetryBudget(policy)
        self._chance = chance

    async def pause(self, failures: int, failed: Failed) -> bool:
        """Wait as long as the policy wants after ``failures`` tries; False to give up, without waiting.

        What all tries of a build may be together counts those that got no further than the last one.
        """
        if not failed.temporary:
            return False
        seconds = self._policy.pause(failures, self._chance.random(), failed.wish)
        if seconds is None or not (failed.advanced or self._budget.spend()):
            return False
        await trio.sleep(seconds)
        return True

    async def persist(self, once: Callable[[], Awaitable[T | Failed]]) -> T:
        """Call ``once`` until it gives an answer; raises the last failure's error."""
        failures = 0
        while True:
            result = await once()
            if not isinstance(result, Failed):
                return result
            failures += 1
            if not await self.pause(failures, result):
                if isinstance(result.error, NoAnswer):
                    result.error.final = True  # whoever called us does not begin again
                raise result.error


@dataclass(slots=True)
class Host:
    """What all callers of one host share; ``transfers`` large ones go each way at a time.

    ``limit`` is what the host said last of its rate limit; ``on_notice`` is told once that little is left.
    """

    name: str
    settings: HostSettings
    wire: Wire
    link: Link
    authorizer: Authorizer
    downloads: trio.CapacityLimiter
    uploads: trio.CapacityLimiter
    on_notice: Callable[[str], None]
    habits: UploadHabits = field(default_factory=UploadHabits)
    reading: DownloadHabits = field(default_factory=DownloadHabits)
    limit: RateLimit | None = None
    _told: bool = False

    def note(self, answer: Answer) -> None:
        """Take note of what an answer says of the host itself."""
        limit = RateLimit.read(answer.headers)
        if limit is None or origin(answer.sent.url)[1] != origin(f"https://{self.link.host}")[1]:
            return
        self.limit = limit
        if limit.is_near and not self._told:
            self._told = True
            self.on_notice(f"{self.name}: {limit}")


class WireTokenService:
    """The token service that a registry names, over the registry's own wire."""

    def __init__(self, wire: Wire, link: Link, patience: Patience) -> None:
        self._wire = wire
        self._link = link
        self._patience = patience

    async def base_url(self) -> str:
        """The registry's scheme and host."""
        return await self._link.base_url()

    async def fetch_token(self, request: TokenRequest) -> TokenAnswer:
        """One request, tried again after temporary failures; redirects are refused."""
        headers = [("Accept", "application/json")]
        if request.authorization is not None:
            headers.append(("Authorization", request.authorization))
        if request.form is not None:
            headers.append(("Content-Type", "application/x-www-form-urlencoded"))
        body = None if request.form is None else BytesBody(request.form)
        sent = Sent(request.method, request.url, tuple(headers), body)
        return await self._patience.persist(lambda: self._once(request, sent))

    async def _once(self, request: TokenRequest, sent: Sent) -> TokenAnswer | Failed:
        try:
            answer = await self._wire.send(sent)
            if answer.status in TEMPORARY_STATUSES:
                return await as_failed(answer, "get a token")
            body = await answer.read(TOKEN_LIMIT)
            if answer.status == 200:
                read_token(request, body)  # a page of something before the service may be gone soon
        except NoAnswer as error:
            return Failed(error, not error.final)
        except RemoteProtocolError as error:
            return Failed(error, temporary=True)
        return TokenAnswer(answer.status, body)


class Caller:
    """Carries `Call`s out."""

    def __init__(self, host: Host, patience: Patience, namespace: str = "") -> None:
        """``namespace``: the registry whose images are meant, if it is not the host's own."""
        self._wire = host.wire
        self._link = host.link
        self._host = host
        self._namespace = namespace
        self.authorizer = host.authorizer
        self.downloads = host.downloads
        self.uploads = host.uploads
        self.habits = host.habits
        self.reading = host.reading
        self.patience = patience

    @property
    def quickest(self) -> float:
        """Seconds of the quickest answer yet: no round trip takes longer. Infinite before the first one."""
        return self._wire.quickest

    async def open(self, call: Call) -> Answer:
        """The answer with its body unread: the caller reads it to the end or closes it.

        Raises a `RegistryError` for every status that is not expected.
        """
        replayable = call.body is None or call.body.replayable
        if call.again and replayable:
            return await self.patience.persist(lambda: self.once(call))
        result = await self.once(call)
        if isinstance(result, Failed):
            raise result.error
        return result

    async def fetch(self, call: Call, limit: int) -> tuple[Answer, bytes]:
        """The answer with its whole body, of at most ``limit`` bytes; raises as `open` does."""
        return await self.patience.persist(lambda: self._fetch_once(call, limit))

    async def _fetch_once(self, call: Call, limit: int) -> tuple[Answer, bytes] | Failed:
        result = await self.once(call)
        if isinstance(result, Failed):
            return result
        try:
            return result, await result.read(limit)
        except NoAnswer as error:
            return Failed(error, not error.final)

    async def once(self, call: Call) -> Answer | Failed:
        """One try. Raises for what cannot become better, returns `Failed` for the rest."""
        try:
            answer = await self._authorised(call)
        except NoAnswer as error:
            return Failed(error, not error.final)
        if answer.status in call.expected and not _is_page(call, answer):
            return answer
        return await as_failed(answer, call.purpose)

    async def _authorised(self, call: Call) -> Answer:
        base = await connected(self._link)
        url = resolve_location(f"{base}/", self._target(call.target))
        check_place(base, url)
        header = await self.authorizer.header(call.scopes) if origin(url) == origin(base) else None
        made = False
        for _ in range(_ROUNDS):
            answer = await self._redirected(call, base, url, header)
            if answer.status != 401 or origin(answer.sent.url) != origin(base):
                return answer
            challenges = parse_challenges(answer.headers.get_list("www-authenticate"))
            exchange, _ = await answer.failed()
            refused, header = header, None
            if call.body is None or call.body.replayable:
                header = await self.authorizer.renew(
                    call.scopes, refused, challenges, first=not made
                )
            if header is None or header == refused:
                raise self.authorizer.refusal(call.purpose, exchange)
            made = True
        raise self.authorizer.refusal(call.purpose, exchange)

    def _target(self, target: str) -> str:
        """A path of ours as it is at this host; what a registry named stays as it is."""
        if not target.startswith(f"{API_ROOT}/"):
            return target
        return path_at(target, self._host.settings.root, self._namespace)

    async def _redirected(self, call: Call, base: str, url: str, header: str | None) -> Answer:
        home = origin(url)
        for _ in range(REDIRECT_LIMIT + 1):
            at_home = origin(url) == home == origin(base)
            headers = self._host.settings.headers if at_home else ()
            if header is not None and origin(url) == home:
                headers = (*headers, ("Authorization", header))
            sent = Sent(
                call.method, url, (*call.headers, *headers), call.body, call.receive_timeout
            )
            answer = await self._wire.send(sent)
            self._host.note(answer)
            location = answer.headers.get("location")
            if answer.status not in REDIRECTS or call.method not in ("GET", "HEAD") or not location:
                return answer
            await answer.discard()
            url = resolve_location(url, location)
            check_place(base, url)
        raise RemoteProtocolError("too many redirects", exchange=answer.exchange)


async def connected(link: Link) -> str:
    """The link's base URL, with its connection errors as `NoAnswer`."""
    with no_answer_mapped(Sent("CONNECT", link.host)):
        return await link.base_url()


def _is_page(call: Call, answer: Answer) -> bool:
    """Whether an answer to a PUT is of something before the registry (a login page): a 200 that names
    neither a digest nor a place. The specification's answer is 201 with a Location.
    """
    told = answer.headers.get("docker-content-digest") or answer.headers.get("location")
    return call.method == "PUT" and answer.status == 200 and not told


async def as_failed(answer: Answer, purpose: str) -> Failed:
    """Read an answer that is an error."""
    wish = retry_after(answer.headers)
    limit = RateLimit.read(answer.headers)
    exchange, words = await answer.failed()
    error = failure(purpose, exchange, words)
    if limit is not None and isinstance(error, RateLimited):
        error.hint = f"{limit}; {error.hint}"
    # a 200 where none belongs is of something before the registry
    temporary = answer.status in TEMPORARY_STATUSES or answer.status == 200
    return Failed(error, temporary, wish)
