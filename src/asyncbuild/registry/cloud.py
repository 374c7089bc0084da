"""Logins that a cloud or a CI system gives to whoever runs there, without its SDK.

`Surroundings` is what a source may look at: the environment, the clock, a way to ask services. Each source
(`aws`, `google`, `azure`, `forges`) says which registries it is for, by their whole host name, and finds
a login for one; `BuiltInKeychain` asks them, and keeps what they found until shortly before it ends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import trio

from asyncbuild.errors import Exchange, InputError, NotAuthorized, RegistryError
from asyncbuild.records import dataclass, field
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.protocol import read_words, redact

RENEW_SECONDS = 120.0
"""A login that ends within this time is not used for anything new."""
LOCAL_SECONDS = 1.0
"""How long a service of this machine's host (an address that no router knows) may take to answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request to a service that is no registry. ``local``: to the machine's own host, without a proxy."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    local: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What the service answered."""

    status: int
    body: bytes = field(default=b"", repr=False)


Ask = Callable[[Question], Any]
"""``async (Question) -> Reply``; raises `RegistryUnavailable` without an answer."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around this process. ``now`` gives seconds since the epoch."""

    environ: Mapping[str, str]
    home: str
    ask: Ask
    now: Callable[[], float] = time.time

    def get(self, name: str) -> str:
        """A variable, "" if it is absent."""
        return self.environ.get(name, "")

    async def question(self, what: str, question: Question) -> dict[str, Any]:
        """Ask, and decode the JSON object of the answer; ``what`` says what for.

        Raises `NotAuthorized` for a refusal, `RegistryError` for what is no answer.
        """
        reply: Reply = await self.ask(question)
        exchange = Exchange(question.method, redact(question.url), reply.status)
        if reply.status != 200:
            words = read_words(reply.body).text
            raise NotAuthorized(f"{what} is refused", exchange=_with(exchange, words))
        try:
            document = json.loads(reply.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise RegistryError(f"{what}: the answer is no JSON object", exchange=exchange)
        return document

    async def local(self, question: Question) -> Reply | None:
        """Ask a service of this machine's host; None if there is none, or it has nothing."""
        try:
            reply: Reply = await self.ask(question)
        except RegistryError:
            return None
        return reply if reply.status == 200 else None

    def read(self, path: str) -> str:
        """A small file that a variable names; raises `InputError` if it cannot be read."""
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise InputError(f"{path} cannot be read: {reason}") from None

    def until(self, moment: float) -> float:
        """``moment`` (seconds since the epoch) on trio's clock, less some time to use the login in."""
        return trio.current_time() + moment - self.now() - RENEW_SECONDS


def _with(exchange: Exchange, text: str) -> Exchange:
    return Exchange(exchange.method, exchange.url, exchange.status, text)


class Source(Protocol):
    """Where logins for some registries come from."""

    name: str

    def serves(self, registry: str) -> bool:
        """Whether it may have a login for a host; never more than its owner's hosts."""

    async def login(self, registry: str, around: Surroundings) -> Credential:
        """The login, `ANONYMOUS` if this place gives none; raises `RegistryError` if it is refused."""


class BuiltInKeychain:
    """Asks the sources that serve a registry, the first that has a login wins."""

    def __init__(self, sources: Sequence[Source], around: Surroundings) -> None:
        self._sources = tuple(sources)
        self._around = around
        self._kept: dict[str, Credential] = {}
        self._lock = trio.Lock()

    async def credential(self, registry: str, repository: str = "") -> Credential:  # noqa: ARG002
        """The login for a host; what a source finds is kept until shortly before it ends."""
        if not any(source.serves(registry) for source in self._sources):
            await trio.lowlevel.checkpoint()
            return ANONYMOUS
        async with self._lock:
            kept = self._kept.get(registry)
            if kept is None or trio.current_time() >= kept.expires:
                kept = self._kept[registry] = await self._find(registry)
            return kept

    async def _find(self, registry: str) -> Credential:
        for source in self._sources:
            if source.serves(registry):
                found = await source.login(registry, self._around)
                if not found.anonymous:
                    return found
        return ANONYMOUS


def text_of(document: Mapping[str, Any], name: str, what: str) -> str:
    """A member that must be a text of printable ASCII: it goes into a header."""
    value = document.get(name)
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise RegistryError(f"{what}: the answer has no {name}")
    return value


def home_file(around: Surroundings, *parts: str) -> str:
    """A path below the home directory."""
    return os.path.join(around.home, *parts)
