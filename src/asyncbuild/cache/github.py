"""GitHub's cache service (``type=gha``) as a store of objects.

Its entries can never be changed, and are found by their whole name, or by its beginning: then the newest
one is given. So an object is the newest of its entries, which are numbered::

    asyncbuild/<scope>/results/<key>.json#1    what came of a step; #2 replaces it, and so on
    asyncbuild/<scope>/listings/<chain>#1
    asyncbuild/blobs/sha256/<hex>#1            a layer; of all scopes

An entry that exists already, since another build made it meanwhile, is as good as ours. Which branches see
which entries is the service's own rule: those of the branch itself, of the one that it will be merged
into, and of the default branch.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import trio

from asyncbuild.cache.github_service import TRIES, Account, Entry, GithubService
from asyncbuild.cache.objects import ObjectNames, ObjectsFailed
from asyncbuild.errors import RegistryError, StoreError
from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.bodies import Body, BytesBody, FileBody
from asyncbuild.registry.caller import Patience
from asyncbuild.registry.registries import Registries

LONGEST_SCOPE = 256
"""Characters of a scope as it stands in names, which may have 512."""
_NUMBERS = 8
"""How many that others began and did not end are passed over."""


@dataclass(frozen=True, slots=True)
class GithubPlace:
    """A scope at a service; ``seconds`` is how long a layer may take to come or go.

    ``url`` and ``token`` are "" where this is no job of GitHub Actions: then there is no cache. The scope
    without ``scope=`` is called as BuildKit calls it.
    """

    url: str = ""
    token: str = field(default="", repr=False)
    scope: str = "buildkit"
    seconds: float = 600.0

    @property
    def names(self) -> ObjectNames:
        """Entries and listings are the scope's; layers have their digest's name in all."""
        scope = quoted(self.scope)
        return ObjectNames((f"{scope}/results/",), "blobs/", f"{scope}/listings/")

    def open(self, registries: Registries) -> GithubObjects:
        """The store; what makes it impossible is said when it is asked."""
        problem = self.problem
        service = None
        if not problem:
            settings = registries.settings
            # who asks to come back later is not asked again
            policy = replace(settings.policy, attempts=TRIES, longest_wish=0.0)
            account = Account(self.url, self.token, self.seconds)
            patience = Patience(policy, settings.chance)
            service = GithubService(account, registries.service(self.url), patience)
        return GithubObjects(f"gha {self.scope}", service, problem)

    @property
    def problem(self) -> str:
        """Why it cannot be used; "" if it can."""
        if not self.url:
            return "ACTIONS_RESULTS_URL is not set: only jobs of GitHub Actions have it"
        if not self.token:
            return "ACTIONS_RUNTIME_TOKEN is not set: GitHub shows it to actions, and not to `run:`"
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or not (self.url.isascii() and self.url.isprintable()):
            return "its URL is no http(s) URL"
        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            return "its token is none"  # and must not come into an error about a header
        return ""


def quoted(scope: str) -> str:
    """A scope as it stands in names, which must not have commas."""
    return quote(scope, safe="")


class GithubObjects:
    """Objects in the service; without one, ``problem`` says why."""

    def __init__(self, name: str, service: GithubService | None, problem: str = "") -> None:
        self.name = name
        self._service = service
        self._problem = problem
        self._newest: dict[str, int] = {}

    async def get(self, name: str) -> bytes | None:
        """The newest entry of a small object."""
        with self._explained() as service:
            entry = await self._find(service, name)
            return None if entry is None else await service.read(entry)

    @asynccontextmanager
    async def read(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The newest entry of an object of any size."""
        with self._explained() as service:
            entry = await self._find(service, name)
            if entry is None:
                raise ObjectsFailed(f"{self.name}: there is no {name}")
            async with service.reading(entry) as chunks:
                yield chunks

    async def put(self, name: str, content: bytes | Path) -> None:
        """Make an entry that is newer than all there are, unless another build has just done so."""
        body = await self._body(content)
        with self._explained() as service:
            if name not in self._newest:
                await self._find(service, name)
            before = self._newest[name]
            for number in range(before + 1, before + 1 + _NUMBERS):
                if await service.create(f"{_beginning(name)}{number}", body):
                    self._newest[name] = number
                    return
                await self._find(service, name)
                if self._newest[name] > before:
                    return
                # it is on its way, or whoever began it was killed: what names it must not wait for that
        raise ObjectsFailed(f"{self.name}: others keep the numbers of {name}")

    async def _body(self, content: bytes | Path) -> Body:
        if isinstance(content, bytes):
            return BytesBody(content)
        try:
            size = await trio.to_thread.run_sync(os.path.getsize, content)
        except OSError as error:
            text = f"{self.name}: a layer cannot be read: {error.strerror}"
            raise ObjectsFailed(text) from None
        return FileBody(str(content), size)

    async def exists(self, name: str) -> bool:
        """Whether it has an entry."""
        with self._explained() as service:
            return await self._find(service, name) is not None

    async def _find(self, service: GithubService, name: str) -> Entry | None:
        entry = await service.find(_beginning(name))
        number = "" if entry is None else entry.name.removeprefix(_beginning(name))
        known = number.isascii() and number.isdigit() and len(number) < 10
        self._newest[name] = int(number) if known else 0
        return entry if known else None

    @contextmanager
    def _explained(self) -> Iterator[GithubService]:
        if self._service is None:
            raise ObjectsFailed(f"{self.name}: {self._problem}")
        try:
            yield self._service
        except (RegistryError, StoreError) as error:
            raise ObjectsFailed(f"{self.name}: {error.message}", hint=error.hint) from None


def _beginning(name: str) -> str:
    return f"asyncbuild/{name}#"
