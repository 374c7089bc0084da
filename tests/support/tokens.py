"""A token service for docker-registry: tokens as its specification has them, signed by openssl.

Users are what they call themselves: ``case-7`` may do everything below ``case-7/``, and everybody may read
``base/`` and ``cache/``. All have one password. Faults strike by user.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import trio

from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest, error_answer
from asyncbuild.testing.faults import Refuse
from support.front import CountedFaults, Door, logged, struck
from support.registry import TokenAuth, make_signer

PASSWORD = "a-passw0rd only for tests"
ISSUER = "asyncbuild tests"
SERVICE = "registries of the tests"
LIFETIME = 300
ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Signer:
    """A key, and the certificate of it that registries trust."""

    key: Path
    certificate: Path

    @classmethod
    def below(cls, directory: Path) -> Signer:
        """A new one."""
        return cls(*make_signer(directory))

    def token(self, user: str, access: list[dict[str, object]]) -> str:
        """A JSON web token (RS256), with the certificate in its header (x5c)."""
        now = int(time.time())
        pem = self.certificate.read_text().split("-----")[2]
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem.split())]}
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": user,
            "iat": now,
            "nbf": now - 5,
            "exp": now + LIFETIME,
            "jti": f"{user}-{time.monotonic_ns()}",
            "access": access,
        }
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        signing = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        done = subprocess.run(signing, input=signed.encode(), check=True, capture_output=True)
        return f"{signed}.{_encoded(done.stdout)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def permitted(user: str, repository: str) -> set[str]:
    """What a user ("" for anybody) may do in a repository."""
    home = repository.partition("/")[0]
    if user and user in (home, ADMIN):
        return {"pull", "push"}
    return {"pull"} if home in ("base", "cache") else set()


class TokenService:
    """Hands tokens out at ``https://localhost:PORT/token``."""

    def __init__(self, signer: Signer, tls: ssl.SSLContext) -> None:
        self.door = Door(tls, "localhost")
        self.faults: dict[str, CountedFaults] = {}
        self.log: list[LoggedRequest] = []
        self._signer = signer

    @property
    def auth(self) -> TokenAuth:
        """What a registry is told of it."""
        realm = f"https://{self.door.host}/token"
        return TokenAuth(realm, SERVICE, ISSUER, self._signer.certificate)

    def asked_by(self, user: str) -> list[LoggedRequest]:
        """The requests that came with a user's name."""
        return [entry for entry in self.log if _login(entry.authorization)[0] == user]

    def begin(self, asked: Asked) -> LoggedRequest:
        """Write a request down."""
        return logged(self.log, asked)

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer it, or what a fault of its user leaves of the answer."""
        user, _ = _login(asked.headers.get("authorization", ""))
        faults = self.faults.get(user)
        action = faults.strike(asked.method, asked.path) if faults is not None else None
        if isinstance(action, Refuse):
            self.door.shut()
        answered = await struck(action, asked, entry, self._answer)
        entry.status = answered.status
        return answered

    async def _answer(self, asked: Asked) -> Answered:
        user, password = _login(asked.headers.get("authorization", ""))
        query = parse_qsl(asked.query)
        if asked.path != "/token" or ("service", SERVICE) not in query:
            return error_answer(404, "NOT_FOUND", "no such service")
        if user and password != PASSWORD:
            return error_answer(401, "UNAUTHORIZED", "another password")
        access = _access(user, [value for name, value in query if name == "scope"])
        token = await trio.to_thread.run_sync(self._signer.token, user, access)
        document = {"token": token, "expires_in": LIFETIME}
        return Answered(200, {"content-type": "application/json"}, json.dumps(document).encode())


def _login(authorization: str) -> tuple[str, str]:
    if not authorization.startswith("Basic "):
        return "", ""
    user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
    return user, password


def _access(user: str, scopes: Iterable[str]) -> list[dict[str, object]]:
    """What is granted of what is asked for; a scope is ``repository:NAME:ACTIONS``."""
    found: list[dict[str, object]] = []
    for scope in (part for text in scopes for part in text.split()):
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        granted = sorted(set(actions.split(",")) & permitted(user, name))
        if kind == "repository" and granted:
            found.append({"type": kind, "name": name, "actions": granted})
    return found


@asynccontextmanager
async def token_service(directory: Path, tls: ssl.SSLContext) -> AsyncIterator[TokenService]:
    """A token service that stands until the block ends."""
    service = TokenService(Signer.below(directory), tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.door.serve, service)
        yield service
        nursery.cancel_scope.cancel()
