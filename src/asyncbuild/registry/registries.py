"""All registries of a build: one client per host, closed together.

::

    async with Registries(RegistrySettings(keychain=…)) as registries:
        client = registries.client(reference.registry)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx
import trio

from asyncbuild.errors import AsyncbuildError, RegistryError
from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.authorities import TrustSettings, trust_of
from asyncbuild.registry.authorize import Authorizer, Realms
from asyncbuild.registry.caller import Caller, Host, Patience, WireTokenService
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.credentials import Keychain, NoLogins
from asyncbuild.registry.headstart import HeadStart
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.limits import RateLimit
from asyncbuild.registry.mirrors import Mirrors
from asyncbuild.registry.pace import Pace
from asyncbuild.registry.places import Files, Places, Route
from asyncbuild.registry.protocol import api_host, user_agent
from asyncbuild.registry.proxies import Proxies
from asyncbuild.registry.reach import Guard
from asyncbuild.registry.retry import RetryBudget, RetryPolicy
from asyncbuild.registry.routing import Way
from asyncbuild.registry.tls import Trust
from asyncbuild.registry.transport import (
    FixedLink,
    Link,
    Network,
    PoolTransport,
    SocketLink,
    Timeouts,
)
from asyncbuild.registry.wire import NoAnswer, OnRequest, Statistics, Wire

MAX_DOWNLOADS = 24
MAX_UPLOADS = 16
"""Large blobs, or parts of them, from and to one host at a time."""
MIRROR_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What holds for all registries of a build.

    ``hosts`` says more of single hosts (by registry name), ``others`` of all that are not among them.
    ``mirrors`` and ``files`` say where images are looked for. ``environ`` is read for SSL_CERT_FILE,
    SSL_CERT_DIR, proxies and UPSTREAM_CLIENT_TYPE. ``realms`` may outlive a build: hosts that are known
    begin with a token. ``transfers`` large blobs go from, and as many to, each host at a time; None leaves
    it to us. ``transport`` replaces the network, for doubles. ``on_request`` is called at the end of each
    exchange, ``on_notice`` with what a person should know and what stops nothing.
    ``head_start`` is what was asked already.
    """

    keychain: Keychain = field(default_factory=NoLogins)
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)
    others: HostSettings = field(default_factory=HostSettings)
    mirrors: Mirrors = field(default_factory=Mirrors)
    files: Files = field(default_factory=Files)
    environ: Mapping[str, str] = field(default_factory=dict)
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    pace: Pace = field(default_factory=Pace)
    chance: random.Random = field(default_factory=random.Random)
    realms: Realms = field(default_factory=Realms)
    transfers: int | None = None
    transport: httpx.AsyncBaseTransport | None = None
    on_request: OnRequest | None = None
    on_notice: Callable[[str], None] | None = None
    head_start: HeadStart | None = None


class Registries:
    """Makes the client of a registry when it is first asked for, and closes all of them on exit."""

    def __init__(self, settings: RegistrySettings | None = None) -> None:
        self.settings = settings or RegistrySettings()
        chosen = self.settings
        self.places = Places(chosen.files, chosen.mirrors, chosen.hosts, chosen.others)
        self._clients: dict[str, RegistryClient] = {}
        self._hosts: dict[tuple[str, HostSettings], Host] = {}
        self._callers: dict[tuple[str, HostSettings, str, bool], Caller] = {}
        self._services: dict[str, Wire] = {}
        self._dead: set[str] = set()
        self._trusts: dict[TrustSettings, Trust] = {}
        self._proxies = Proxies.from_environment(chosen.environ)
        self._user_agent = user_agent(chosen.environ)
        self._budget = RetryBudget(chosen.policy)

    def client(self, registry: str) -> RegistryClient:
        """The client for a registry, named as in `Reference.registry` (``docker.io`` for Docker Hub)."""
        if registry not in self._clients:
            ways = _Ways(self, registry)
            self._clients[registry] = RegistryClient(registry, ways, self.settings.timeouts)
        return self._clients[registry]

    def service(self, url: str) -> Wire:
        """A wire to a service that is no registry, and to where it leads; closed with the registries.

        Proxies and trust are those of registries; of the settings of hosts the authorities count.
        """
        host = urlsplit(url).netloc
        if host not in self._services:
            settings = self.settings
            transport = settings.transport or self._plain_transport(host)
            self._services[host] = Wire(
                transport, settings.timeouts, settings.on_request, self._user_agent, settings.pace
            )
        return self._services[host]

    def _plain_transport(self, host: str) -> PoolTransport:
        files = self.settings.hosts.get(host, self.settings.others).ca_files
        trust = TrustSettings.from_environment(self.settings.environ, extra_files=files)
        return PoolTransport(Network(self._trusts.setdefault(trust, Trust(trust)), self._proxies))

    async def dial(self, registry: str) -> None:
        """Open a connection to where ``registry`` is asked first (and to its token service, if it is
        known) before the first request needs it. Never fails: the first request would say what is wrong.
        """
        try:
            route = self.places.pull(registry, "", tag=True)[0]
        except AsyncbuildError:
            return
        host = self._host(route)
        await _dial(host.link, None)
        if host.authorizer.realm:
            await _dial(host.link, host.authorizer.realm)

    async def dial_ahead(self, registry: str, repository: str, count: int) -> None:
        """Have ``count`` connections in all to where ``repository`` is pushed, if that is far away: a wave
        of mounts and uploads will come, and need not wait for handshakes. Called when the first requests
        are on their way; never fails.
        """
        with suppress(httpx.HTTPError, httpx.InvalidURL, AsyncbuildError):
            host = self._host(self.places.push(registry, repository))
            with trio.move_on_after(self.settings.timeouts.far) as waiting:
                await host.wire.answered.wait()
            if waiting.cancelled_caught:
                await host.link.dial_ahead(count)

    def statistics(self) -> Statistics:
        """What went over the wire until now, of all hosts."""
        total = Statistics()
        for host in self._hosts.values():
            total += host.wire.statistics + Statistics(connections=host.link.connections)
        return sum((wire.statistics for wire in self._services.values()), total)

    def rate_limits(self) -> Mapping[str, RateLimit]:
        """What hosts said last of their rate limits, by host."""
        hosts = self._hosts.values()
        return {host.name: host.limit for host in hosts if host.limit is not None}

    def notice(self, text: str) -> None:
        """Tell what a person should know."""
        if self.settings.on_notice is not None:
            self.settings.on_notice(text)

    def way(self, route: Route, *, last: bool) -> Way:
        """The caller of a route; one that is not the ``last`` is asked with less patience."""
        key = (route.host, route.settings, route.namespace, last)
        if key not in self._callers:
            policy = self.settings.policy
            if not last:
                policy = replace(policy, attempts=min(policy.attempts, MIRROR_ATTEMPTS))
            patience = Patience(policy, self.settings.chance, self._budget)
            self._callers[key] = Caller(self._host(route), patience, route.namespace)
        return Way(route, self._callers[key])

    def is_dead(self, route: Route) -> bool:
        """Whether a mirror gave no answer in this build."""
        return route.host in self._dead

    def passed_over(self, way: Way, error: RegistryError) -> None:
        """A way that is not the last one failed."""
        silent = isinstance(error, NoAnswer)
        if silent:
            self._dead.add(way.route.host)
        more = " for the rest of the build" if silent else ""
        self.notice(f"{way.route} is not used{more}: {error.message}")

    def _host(self, route: Route) -> Host:
        key = (route.host, route.settings)
        if key not in self._hosts:
            self._hosts[key] = self._make(*key)
        return self._hosts[key]

    def _make(self, registry: str, host: HostSettings) -> Host:
        settings = self.settings
        link = self._link(registry, host)
        wire = Wire(
            link.transport, settings.timeouts, settings.on_request, self._user_agent, settings.pace
        )
        patience = Patience(settings.policy, settings.chance, self._budget)
        authorizer = Authorizer(
            registry,
            settings.keychain,
            WireTokenService(wire, link, patience),
            settings.realms,
            insecure=host.insecure,
        )
        downloads = trio.CapacityLimiter(settings.transfers or MAX_DOWNLOADS)
        uploads = trio.CapacityLimiter(settings.transfers or MAX_UPLOADS)
        return Host(registry, host, wire, link, authorizer, downloads, uploads, self.notice)

    def _link(self, registry: str, host: HostSettings) -> Link:
        if self.settings.transport is not None:
            return FixedLink(registry, self.settings.transport)
        trust = trust_of(self.settings.environ, host)
        shared = self._trusts.setdefault(trust, Trust(trust))
        guard, early = Guard(api_host(registry)), self.settings.head_start
        network = Network(shared, self._proxies, guard, early)
        return SocketLink(registry, host, network, self.settings.timeouts)

    async def aclose(self) -> None:
        """Close every connection; takes no time, also while the task is being cancelled."""
        for host in self._hosts.values():
            await host.wire.aclose()
        for wire in self._services.values():
            await wire.aclose()
        if self.settings.head_start is not None:
            self.settings.head_start.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class _Ways:
    """The ways of one registry."""

    def __init__(self, registries: Registries, registry: str) -> None:
        self._registries = registries
        self._registry = registry

    def pull(self, repository: str, *, tag: bool) -> tuple[Way, ...]:
        """Every way to pull by tag or digest, without mirrors that gave no answer."""
        routes = self._registries.places.pull(self._registry, repository, tag=tag)
        *mirrors, own = routes
        alive = [route for route in mirrors if not self._registries.is_dead(route)]
        ways = [self._registries.way(route, last=False) for route in alive]
        return (*ways, self._registries.way(own, last=True))

    def push(self, repository: str) -> Way:
        """The way to push."""
        return self._registries.way(
            self._registries.places.push(self._registry, repository), last=True
        )

    def passed_over(self, way: Way, error: RegistryError) -> None:
        """A way that is not the last one failed."""
        self._registries.passed_over(way, error)


async def _dial(link: Link, url: str | None) -> None:
    try:
        await link.dial(url)
    except (httpx.HTTPError, httpx.InvalidURL, AsyncbuildError):
        return
