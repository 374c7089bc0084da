"""All registries of a build: one client per host, closed together.

::

    async with Registries(RegistrySettings(keychain=…)) as registries:
        client = registries.client(reference.registry)
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import httpx

from asyncbuild.errors import AsyncbuildError
from asyncbuild.registry.authorize import Authorizer, Realms
from asyncbuild.registry.caller import Caller, Patience, WireTokenService
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.credentials import Keychain, NoLogins
from asyncbuild.registry.mirrors import Mirrors
from asyncbuild.registry.proxies import Proxies
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.registry.tls import Trust, TrustSettings
from asyncbuild.registry.transport import (
    FixedLink,
    HostSettings,
    Link,
    Network,
    SocketLink,
    Timeouts,
)
from asyncbuild.registry.wire import OnRequest, Statistics, Wire


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What holds for all registries of a build.

    ``hosts`` says more of single hosts (by registry name), ``others`` of all that are not among them.
    ``mirrors`` are where images are looked for first. ``environ`` is read for SSL_CERT_FILE,
    SSL_CERT_DIR and proxies. ``realms`` may outlive a build: hosts that are known begin with a token.
    ``transport`` replaces the network, for doubles. ``on_request`` is called at the end of each exchange.
    """

    keychain: Keychain = field(default_factory=NoLogins)
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)
    others: HostSettings = field(default_factory=HostSettings)
    mirrors: Mirrors = field(default_factory=Mirrors)
    environ: Mapping[str, str] = field(default_factory=dict)
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    chance: random.Random = field(default_factory=random.Random)
    realms: Realms = field(default_factory=Realms)
    transport: httpx.AsyncBaseTransport | None = None
    on_request: OnRequest | None = None


@dataclass(frozen=True, slots=True)
class _Host:
    client: RegistryClient
    link: Link
    wire: Wire
    authorizer: Authorizer


class Registries:
    """Makes the client of a host when it is first asked for, and closes all of them on exit."""

    def __init__(self, settings: RegistrySettings | None = None) -> None:
        self.settings = settings or RegistrySettings()
        self._hosts: dict[str, _Host] = {}
        self._trusts: dict[TrustSettings, Trust] = {}
        self._proxies = Proxies.from_environment(self.settings.environ)

    def client(self, registry: str) -> RegistryClient:
        """The client for a registry, named as in `Reference.registry` (``docker.io`` for Docker Hub)."""
        return self._host(registry).client

    async def dial(self, registry: str) -> None:
        """Open a connection to ``registry`` (and to its token service, if it is known) before the first
        request needs it. Never fails: the first request would say what is wrong.
        """
        host = self._host(registry)
        await _dial(host.link, None)
        if host.authorizer.realm:
            await _dial(host.link, host.authorizer.realm)

    def statistics(self) -> Statistics:
        """What went over the wire until now, of all hosts."""
        total = Statistics()
        for host in self._hosts.values():
            total += host.wire.statistics + Statistics(connections=host.link.connections)
        return total

    def _host(self, registry: str) -> _Host:
        if registry not in self._hosts:
            self._hosts[registry] = self._make(registry)
        return self._hosts[registry]

    def _make(self, registry: str) -> _Host:
        settings = self.settings
        host_settings = settings.hosts.get(registry, settings.others)
        link = self._link(registry, host_settings)
        wire = Wire(link.transport, settings.timeouts, settings.on_request)
        patience = Patience(settings.policy, settings.chance)
        authorizer = Authorizer(
            registry,
            settings.keychain,
            WireTokenService(wire, link, patience),
            settings.realms,
            insecure=host_settings.insecure,
        )
        caller = Caller(wire, link, authorizer, patience)
        client = RegistryClient(registry, caller, settings.timeouts)
        return _Host(client, link, wire, authorizer)

    def _link(self, registry: str, host: HostSettings) -> Link:
        if self.settings.transport is not None:
            return FixedLink(registry, self.settings.transport)
        trust = TrustSettings.from_environment(
            self.settings.environ, verify=not host.insecure, extra_file=host.ca_file
        )
        trust = replace(trust, client=host.client_certificate)
        shared = self._trusts.setdefault(trust, Trust(trust))
        network = Network(shared, self._proxies)
        return SocketLink(registry, host, network, self.settings.timeouts)

    async def aclose(self) -> None:
        """Close every connection; takes no time, also while the task is being cancelled."""
        for host in self._hosts.values():
            await host.wire.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


async def _dial(link: Link, url: str | None) -> None:
    try:
        await link.dial(url)
    except (httpx.HTTPError, AsyncbuildError):
        return
