"""Logins from docker's config.json and from credential helpers.

Which of a document's entries belongs to a registry (docker CLI, ``cli/config``):

1. ``credHelpers[host]``, else ``credsStore``, names a program ``docker-credential-NAME``, run when a
   registry first asks for a login.
2. If there is no program, or it knows no login: ``auths``. A key is a host, or a URL of a host whose path
   is empty, ``/v1`` or ``/v2``; the host must be equal, port included. Docker Hub's names are one host.
3. DOCKER_AUTH_CONFIG (the document itself) is asked first, then ``config.json`` in DOCKER_CONFIG.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from asyncbuild.errors import InputError
from asyncbuild.image.reference import DOCKER_HUB
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.protocol import DOCKER_HUB_API, printable

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
HELPER_SECONDS = 60.0
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", DOCKER_HUB_API})
_HOST_PATHS = frozenset({"", "v1", "v2"})
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Keychain(Protocol):
    """Finds logins."""

    async def credential(self, registry: str) -> Credential:
        """The login for a registry host; `ANONYMOUS` if there is none."""


class NoLogins:
    """A keychain without logins."""

    async def credential(self, registry: str) -> Credential:  # noqa: ARG002
        """Always anonymous."""
        await trio.lowlevel.checkpoint()
        return ANONYMOUS


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """What one config.json says of logins. ``source`` names it in errors.

    Entries of ``auths`` are decoded when they are asked for: a damaged one harms no other registry.
    """

    source: str
    auths: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    @classmethod
    def parse(cls, text: str | bytes, source: str) -> DockerConfig:
        """Decode the document; raises `InputError` for what is no config.json."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source} is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise InputError(f"{source} is not a JSON object")
        helpers = _object(document.get("credHelpers"))
        return cls(
            source,
            {
                host_of_key(key): entry
                for key, entry in _object(document.get("auths")).items()
                if isinstance(entry, dict) and host_of_key(key)
            },
            {host_of_key(key): str(name) for key, name in helpers.items()},
            str(document.get("credsStore") or ""),
        )

    def helper(self, registry: str) -> str:
        """The credential helper to ask for ``registry``, "" if there is none."""
        return self.helpers.get(host_of_key(registry)) or self.store

    def login(self, registry: str) -> Credential:
        """The login in ``auths``; raises `InputError` for an entry that is damaged."""
        entry = self.auths.get(host_of_key(registry))
        if entry is None:
            return ANONYMOUS
        try:
            return _decode_entry(entry)
        except (ValueError, binascii.Error):
            raise InputError(f"{self.source}: the login for {registry} is damaged") from None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def host_of_key(key: str) -> str:
    """The host that a key of ``auths`` or ``credHelpers`` names, "" if it names less than a host."""
    host, _, path = re.sub(r"\A[hH][tT][tT][pP][sS]?://", "", key.strip()).partition("/")
    host = host.lower()
    if path.strip("/") not in _HOST_PATHS or not host or "@" in host:
        return ""
    return DOCKER_HUB if host in _HUB_NAMES else host


def _decode_entry(entry: Mapping[str, Any]) -> Credential:
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    auth = entry.get("auth")
    if auth:
        pair = base64.b64decode(str(auth), validate=True).decode("utf-8")
        username, colon, password = pair.partition(":")
        if not colon:
            raise ValueError("no colon")
        password = password.rstrip("\0")
    return Credential(
        username,
        password,
        identity_token=str(entry.get("identitytoken") or ""),
        registry_token=str(entry.get("registrytoken") or ""),
    )


class DockerKeychain:
    """Logins from docker configurations, the first that knows one wins.

    ``environ`` is the environment of the helpers (and where PATH comes from); None is our own.
    """

    def __init__(
        self, configs: Sequence[DockerConfig], environ: Mapping[str, str] | None = None
    ) -> None:
        self._configs = tuple(configs)
        self._environ = None if environ is None else dict(environ)

    async def credential(self, registry: str) -> Credential:
        """The login for ``registry``; runs a helper if the configuration names one.

        Raises `InputError` for a helper that cannot be run or fails, and for a damaged entry.
        """
        await trio.lowlevel.checkpoint()
        for config in self._configs:
            helper = config.helper(registry)
            if helper:
                found = await ask_helper(helper, registry, self._environ)
                if not found.anonymous:
                    return found
            found = config.login(registry)
            if not found.anonymous:
                return found
        return ANONYMOUS


def load_docker_configs(environ: Mapping[str, str], home: str) -> tuple[DockerConfig, ...]:
    """The configurations that ``environ`` and the home directory name, in the order they are asked.

    Reads a file: blocking, and short. A missing file is no error, one that cannot be read is `InputError`.
    """
    configs = []
    if environ.get("DOCKER_AUTH_CONFIG"):
        configs.append(DockerConfig.parse(environ["DOCKER_AUTH_CONFIG"], "DOCKER_AUTH_CONFIG"))
    directory = environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    path = os.path.join(directory, "config.json")
    try:
        with open(path, "rb") as file:
            configs.append(DockerConfig.parse(file.read(), path))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return tuple(configs)


async def ask_helper(name: str, registry: str, environ: Mapping[str, str] | None) -> Credential:
    """Run ``docker-credential-NAME get`` (docker-credential-helpers, "Development").

    A helper that does not know the host answers with an error of a fixed text: that is anonymous.
    """
    if not _HELPER_NAME.fullmatch(name):
        raise InputError(f"{name!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    server = DOCKER_HUB_KEY if host_of_key(registry) == DOCKER_HUB else registry
    try:
        with trio.fail_after(HELPER_SECONDS):
            done = await trio.run_process(
                [program, "get"],
                stdin=server.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environ,
            )
    except trio.TooSlowError:
        raise InputError(f"{program} gave no answer in {HELPER_SECONDS:.0f} s") from None
    except OSError as error:
        raise InputError(
            f"{program} cannot be run: {error.strerror}",
            hint="docker's config.json names it (credHelpers or credsStore): install it, or remove it",
        ) from None
    return _read_helper(program, registry, done)


def _read_helper(
    program: str, registry: str, done: subprocess.CompletedProcess[bytes]
) -> Credential:
    said = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        if "credentials not found" in said.lower():
            return ANONYMOUS
        text = printable(said or done.stderr.decode("utf-8", "replace").strip(), 200)
        raise InputError(f"{program} fails for {registry} (code {done.returncode}): {text}")
    try:
        document = json.loads(said)
        username, secret = str(document["Username"]), str(document["Secret"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{program} answers with what is no login for {registry}") from None
    if username == "<token>":
        return Credential(identity_token=secret)
    return Credential(username, secret)
