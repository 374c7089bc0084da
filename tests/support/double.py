"""Running a registry client against a registry double, without sockets and with a clock that jumps."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import httpx
import trio
import trio.testing

from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_transport import DoubleTransport

HOST = "registry.example"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OneLogin:
    """A keychain with one login, and a count of how often it was asked."""

    login: Credential
    host: str = HOST

    async def credential(self, registry: str, repository: str = "") -> Credential:
        """The login, for its host only."""
        await trio.lowlevel.checkpoint()
        return self.login if registry == self.host else ANONYMOUS


def settings_for(
    double: RegistryDouble, settings: RegistrySettings | None = None
) -> RegistrySettings:
    """``settings`` with the double as the whole network, and chance without surprises."""
    return replace(
        settings or RegistrySettings(),
        transport=DoubleTransport(double),
        chance=random.Random(7),
    )


def with_client(
    double: RegistryDouble,
    use: Callable[[RegistryClient], Awaitable[T]],
    settings: RegistrySettings | None = None,
) -> T:
    """Run ``use`` with a client of the double; pauses take no time."""

    async def main() -> T:
        async with Registries(settings_for(double, settings)) as registries:
            return await use(registries.client(HOST))

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def read_all(chunks: object) -> bytes:
    """Everything that an async iterator gives."""
    return b"".join([chunk async for chunk in chunks])  # type: ignore[attr-defined]


class ManyHosts(httpx.AsyncBaseTransport):
    """A network of several doubles, by host; nobody else answers."""

    def __init__(self, doubles: Mapping[str, RegistryDouble]) -> None:
        self._transports = {host: DoubleTransport(double) for host, double in doubles.items()}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Hand the request to its host."""
        transport = self._transports.get(request.url.netloc.decode("ascii"))
        if transport is None:
            await trio.lowlevel.checkpoint()
            raise httpx.ConnectError("nobody listens")
        return await transport.handle_async_request(request)


def on_mock_clock(use: Callable[[], Awaitable[T]]) -> T:
    """Run ``use`` where pauses take no time."""
    return trio.run(use, clock=trio.testing.MockClock(autojump_threshold=0))
