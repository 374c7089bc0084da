"""Writing logins: into docker's config.json (or another such document), or a credential helper.

What docker does is done: a helper that the document names keeps the login, else ``auths`` does, and all
else in the document stays as it is. It appears by rename, readable by its owner only.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import trio

from asyncbuild.errors import InputError, StoreError, UsageError
from asyncbuild.image.reference import DOCKER_HUB
from asyncbuild.records import dataclass, field
from asyncbuild.registry.auth import Credential
from asyncbuild.registry.credentials import (
    DOCKER_HUB_KEY,
    DockerConfig,
    host_of_key,
    place_of_key,
    run_helper,
)


def place_of_registry(text: str) -> str:
    """``HOST[:PORT][/PATH]`` as people write it, as a key of ``auths``. Raises `UsageError`."""
    place = place_of_key(text)
    if not place or any(char.isspace() or not char.isprintable() for char in place):
        raise UsageError(f"{text!r} is no registry: write HOST[:PORT]")
    return DOCKER_HUB_KEY if place == DOCKER_HUB else place


def login_file(environ: Mapping[str, str], home: str, named: str | None = None) -> str:
    """Where a login goes: the file that is named, REGISTRY_AUTH_FILE, else docker's config.json."""
    directory = environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    return named or environ.get("REGISTRY_AUTH_FILE") or os.path.join(directory, "config.json")


@dataclass(frozen=True, slots=True)
class LoginFile:
    """The document at ``path``, which need not exist yet. ``environ`` is that of helpers."""

    path: str
    environ: Mapping[str, str] = field(repr=False)

    async def store(self, place: str, login: Credential) -> str:
        """Keep a login; where it is kept, for people. Raises `InputError` and `StoreError`."""
        document = self._read()
        helper = self._helper(document, place)
        if helper:
            entry = {"ServerURL": place, "Username": login.username, "Secret": login.password}
            await run_helper(helper, "store", json.dumps(entry).encode(), self.environ)
            kept: dict[str, Any] = {}  # docker notes the host, too, so that it can be listed
        else:
            pair = f"{login.username}:{login.password}".encode()
            kept = {"auth": base64.b64encode(pair).decode("ascii")}
        auths = self._auths(document)
        for key in _same(auths, place):
            del auths[key]
        await trio.to_thread.run_sync(self._write, {**document, "auths": {**auths, place: kept}})
        return f"docker-credential-{helper}" if helper else self.path

    async def remove(self, place: str) -> bool:
        """Forget a login; whether there was one."""
        document = self._read()
        auths = self._auths(document)
        found = _same(auths, place)
        helper = self._helper(document, place)
        if helper:
            with contextlib.suppress(InputError):  # it knew none
                await run_helper(helper, "erase", place.encode(), self.environ)
        if found:
            kept = {key: value for key, value in auths.items() if key not in found}
            await trio.to_thread.run_sync(self._write, {**document, "auths": kept})
        return bool(found or helper)

    def _helper(self, document: Mapping[str, Any], place: str) -> str:
        config = DockerConfig.parse(json.dumps(document), self.path)
        return config.helper(place) if host_of_key(place) else ""

    def _auths(self, document: Mapping[str, Any]) -> dict[str, Any]:
        auths = document.get("auths", {})
        if not isinstance(auths, dict):
            raise InputError(f"{self.path}: auths is no object")
        return dict(auths)

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                text = file.read()
            document = json.loads(text) if text.strip() else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "it is not JSON"
            raise InputError(f"{self.path} cannot be read: {reason}") from None
        if not isinstance(document, dict):
            raise InputError(f"{self.path} is no JSON object")
        return document

    def _write(self, document: Mapping[str, Any]) -> None:
        path = os.path.realpath(self.path)  # a link to the file stays one
        partial = f"{path}.{os.getpid()}.tmp"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(partial, flags, 0o600), "w", encoding="utf-8") as file:
                json.dump(document, file, indent="\t")
                file.write("\n")
            os.replace(partial, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from error


def _same(auths: Mapping[str, Any], place: str) -> list[str]:
    """The keys that mean the same place, however they are written."""
    return [key for key in auths if place_of_key(key) == place_of_key(place)]
