"""The keychain of a command: files first, then what this place gives to whoever runs here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import httpx
import trio

from asyncbuild.registry.authorities import TrustSettings
from asyncbuild.registry.aws import Ecr
from asyncbuild.registry.azure import Acr
from asyncbuild.registry.cloud import (
    LOCAL_SECONDS,
    BuiltInKeychain,
    Question,
    Reply,
    Source,
    Surroundings,
)
from asyncbuild.registry.credentials import (
    DockerKeychain,
    Keychain,
    Keychains,
    load_docker_configs,
    read_logins,
)
from asyncbuild.registry.forges import Environment, GitHub, GitLab
from asyncbuild.registry.google import Google
from asyncbuild.registry.proxies import Proxies
from asyncbuild.registry.tls import Trust
from asyncbuild.registry.transport import Network, PoolTransport
from asyncbuild.registry.wire import NoAnswer, Sent, no_answer_mapped

SECONDS = 20.0
ANSWER_LIMIT = 1 << 20


def sources() -> tuple[Source, ...]:
    """Every source there is, in the order they are asked."""
    return (Environment(), GitHub(), GitLab(), Google(), Ecr(), Acr())


SOURCE_NAMES = tuple(source.name for source in sources())


def standard_keychain(
    environ: Mapping[str, str],
    home: str,
    *,
    files: Iterable[str] = (),
    names: Iterable[str] = SOURCE_NAMES,
) -> Keychain:
    """Logins from ``files``, from the files that `load_docker_configs` finds, then from the built-in
    sources called ``names``.

    Reads files: blocking, and short. Raises `InputError` for one that is damaged.
    """
    chosen = tuple(names)
    named = [found for path in files if (found := read_logins(path)) is not None]
    documents = DockerKeychain([*named, *load_docker_configs(environ, home)], environ)
    around = Surroundings(environ, home, Asker(environ))
    built_in = BuiltInKeychain([item for item in sources() if item.name in chosen], around)
    return Keychains(documents, built_in)


class Asker:
    """Asks services over connections of their own, which are closed at once: there are few questions."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    async def __call__(self, question: Question) -> Reply:
        """One request; raises `NoAnswer` without an answer, also if it does not come in time."""
        trust = Trust(TrustSettings.from_environment(self._environ))
        proxies = Proxies() if question.local else Proxies.from_environment(self._environ)
        asked = Sent(question.method, question.url)
        seconds = LOCAL_SECONDS if question.local else SECONDS
        try:
            with trio.fail_after(seconds), no_answer_mapped(asked):
                transport = PoolTransport(Network(trust, proxies))
                async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
                    return await _ask(client, question)
        except trio.TooSlowError:
            raise NoAnswer("no answer in time", exchange=asked.exchange) from None


async def _ask(client: httpx.AsyncClient, question: Question) -> Reply:
    request = client.build_request(
        question.method, question.url, headers=list(question.headers), content=question.body
    )
    answer = await client.send(request)
    return Reply(answer.status_code, answer.content[:ANSWER_LIMIT])
