"""Logins from the files of docker, containers tools and Kubernetes, and from credential helpers.

Which of a document's entries belongs to a repository (docker CLI, ``cli/config``; containers-auth.json(5);
Kubernetes, "Interpretation of config.json"):

1. The longest key of ``auths`` that is the registry and a path that the repository is, or is below.
2. ``credHelpers[host]``, else ``credsStore``, names a program ``docker-credential-NAME``, run when a
   registry first asks for a login.
3. If there is no program, or it knows no login: the key of ``auths`` that is the host, port included, or
   a URL of it whose path is empty, ``/v1`` or ``/v2``. Docker Hub's names are one host.
4. A key with ``*``: each label of the host matches its own, the port is equal.

The documents, and the order in which they are asked, are those of `load_docker_configs`.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import trio

from asyncbuild.errors import InputError
from asyncbuild.image.reference import DOCKER_HUB
from asyncbuild.records import dataclass, field
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.protocol import DOCKER_HUB_API, printable

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
HELPER_SECONDS = 60.0
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", DOCKER_HUB_API})
_HOST_PATHS = frozenset({"", "v1", "v2"})
HELPER_FRESH_SECONDS = 300.0
"""How long a helper's answer is used: some hand out logins that end within the hour."""
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Keychain(Protocol):
    """Finds logins."""

    async def credential(self, registry: str, repository: str = "") -> Credential:
        """The login for a repository of a registry; `ANONYMOUS` if there is none. Asked often: an answer
        that is not at hand is kept until it ends.
        """


class NoLogins:
    """A keychain without logins."""

    async def credential(self, registry: str, repository: str = "") -> Credential:  # noqa: ARG002
        """Always anonymous."""
        await trio.lowlevel.checkpoint()
        return ANONYMOUS


class Keychains:
    """Several keychains; the first that knows a login wins."""

    def __init__(self, *chain: Keychain) -> None:
        self._chain = chain

    async def credential(self, registry: str, repository: str = "") -> Credential:
        """What the first one knows."""
        for keychain in self._chain:
            found = await keychain.credential(registry, repository)
            if not found.anonymous:
                return found
        return ANONYMOUS


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """What one document says of logins. ``source`` names it in errors.

    The keys of ``auths`` are hosts, hosts with a path (``host/path``), and hosts with ``*``. Entries are
    decoded when they are asked for: a damaged one harms no other registry.
    """

    source: str
    auths: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    @classmethod
    def parse(cls, text: str | bytes, source: str) -> DockerConfig:
        """Decode the document; raises `InputError` for what is none.

        A document in which only entries stand is ``.dockercfg``, docker's older form.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source} is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise InputError(f"{source} is not a JSON object")
        helpers = _object(document.get("credHelpers"))
        auths = document if _is_dockercfg(document) else _object(document.get("auths"))
        return cls(
            source,
            {
                place_of_key(key): entry
                for key, entry in auths.items()
                if isinstance(entry, dict) and place_of_key(key)
            },
            {host_of_key(key): str(name) for key, name in helpers.items()},
            str(document.get("credsStore") or ""),
        )

    def helper(self, registry: str) -> str:
        """The credential helper to ask for ``registry``, "" if there is none."""
        return self.helpers.get(host_of_key(registry)) or self.store

    def path_login(self, registry: str, repository: str) -> Credential:
        """The login of the longest path that ``repository`` is below, or is."""
        host, path = host_of_key(registry), repository
        while path:
            found = self._decoded(f"{host}/{path}")
            if not found.anonymous:
                return found
            path = path.rpartition("/")[0]
        return ANONYMOUS

    def login(self, registry: str) -> Credential:
        """The login of the host; raises `InputError` for an entry that is damaged."""
        host = host_of_key(registry)
        found = self._decoded(host)
        patterns = sorted((key for key in self.auths if "*" in key), key=len, reverse=True)
        for pattern in patterns:
            if found.anonymous and _matches(pattern, host):
                found = self._decoded(pattern)
        return found

    def _decoded(self, key: str) -> Credential:
        entry = self.auths.get(key)
        if entry is None:
            return ANONYMOUS
        try:
            return _decode_entry(entry)
        except (ValueError, binascii.Error):
            raise InputError(f"{self.source}: the login for {key} is damaged") from None


def _is_dockercfg(document: Mapping[str, Any]) -> bool:
    known = {"auths", "credHelpers", "credsStore"}
    entries = [isinstance(value, dict) and "auth" in value for value in document.values()]
    return not known & set(document) and any(entries) and all(entries)


def _matches(pattern: str, host: str) -> bool:
    """Whether a host is what a pattern means: ``*`` stands for a part of one label, never for a dot."""
    (wanted, _, wanted_port), (name, _, port) = pattern.partition(":"), host.partition(":")
    labels = wanted.split("."), name.split(".")
    if wanted_port != port or len(labels[0]) != len(labels[1]):
        return False
    return all(fnmatch.fnmatchcase(there, here) for here, there in zip(*labels, strict=True))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def host_of_key(key: str) -> str:
    """The host that a key of ``auths`` or ``credHelpers`` names, "" if it names more or less."""
    place = place_of_key(key)
    return "" if "/" in place else place


def place_of_key(key: str) -> str:
    """The host that a key of ``auths`` names, with its path if it has one that is not docker's; "" if it
    names no host.
    """
    bare = re.sub(r"\A[hH][tT][tT][pP][sS]?://", "", key.strip())
    host, _, path = bare.partition("/")
    host, path = host.lower(), path.strip("/")
    if not host or "@" in host:
        return ""
    host = DOCKER_HUB if host in _HUB_NAMES else host
    if path in _HOST_PATHS:
        return host
    if bare != key.strip() and path.partition("/")[0] in _HOST_PATHS:
        return ""
    return f"{host}/{path}"


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
    """Logins from documents, the first that knows one wins.

    ``environ`` is the environment of the helpers (and where PATH comes from); None is our own.
    """

    def __init__(
        self, configs: Sequence[DockerConfig], environ: Mapping[str, str] | None = None
    ) -> None:
        self._configs = tuple(configs)
        self._environ = None if environ is None else dict(environ)
        self._answers: dict[tuple[str, str], tuple[float, Credential]] = {}
        self._lock = trio.Lock()

    async def credential(self, registry: str, repository: str = "") -> Credential:
        """The login for ``repository``; runs a helper if the configuration names one.

        Raises `InputError` for a helper that cannot be run or fails, and for a damaged entry.
        """
        await trio.lowlevel.checkpoint()
        for config in self._configs:
            found = config.path_login(registry, repository)
            helper = config.helper(registry)
            if found.anonymous and helper:
                found = await self._ask(helper, registry)
            if found.anonymous:
                found = config.login(registry)
            if not found.anonymous:
                return found
        return ANONYMOUS

    async def _ask(self, helper: str, registry: str) -> Credential:
        key = (helper, registry)
        async with self._lock:
            end, answer = self._answers.get(key, (-1.0, ANONYMOUS))
            if trio.current_time() > end:
                answer = await ask_helper(helper, registry, self._environ)
                self._answers[key] = (trio.current_time() + HELPER_FRESH_SECONDS, answer)
            return answer


def load_docker_configs(environ: Mapping[str, str], home: str) -> tuple[DockerConfig, ...]:
    """The configurations that ``environ`` and the home directory name, in the order they are asked.

    Reads files: blocking, and short. A missing file is no error, one that cannot be read is `InputError`.

    1. DOCKER_AUTH_CONFIG: the document itself.
    2. REGISTRY_AUTH_FILE.
    3. ``config.json`` in DOCKER_CONFIG (else ``~/.docker``); in a directory into which Kubernetes mounts
       a pull secret, ``.dockerconfigjson`` and ``.dockercfg``.
    4. ``containers/auth.json`` in XDG_RUNTIME_DIR and in XDG_CONFIG_HOME (else ``~/.config``).
    """
    configs = []
    if environ.get("DOCKER_AUTH_CONFIG"):
        configs.append(DockerConfig.parse(environ["DOCKER_AUTH_CONFIG"], "DOCKER_AUTH_CONFIG"))
    return (*configs, *filter(None, map(read_logins, login_files(environ, home))))


def login_files(environ: Mapping[str, str], home: str) -> tuple[str, ...]:
    """Where documents with logins may be, in the order they are asked."""
    paths = [environ.get("REGISTRY_AUTH_FILE") or ""]
    directory = environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    names = ("config.json", ".dockerconfigjson", ".dockercfg")
    paths += [os.path.join(directory, name) for name in names]
    runtime = environ.get("XDG_RUNTIME_DIR")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    paths += [
        os.path.join(place, "containers", "auth.json") for place in (runtime, config) if place
    ]
    return tuple(dict.fromkeys(filter(None, paths)))


def read_logins(path: str) -> DockerConfig | None:
    """The document at ``path``; None if there is none. Raises `InputError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return DockerConfig.parse(text, path) if text.strip() else None


async def ask_helper(name: str, registry: str, environ: Mapping[str, str] | None) -> Credential:
    """Run ``docker-credential-NAME get`` (docker-credential-helpers, "Development").

    A helper that does not know the host answers with an error of a fixed text: that is anonymous.
    """
    server = DOCKER_HUB_KEY if host_of_key(registry) == DOCKER_HUB else registry
    try:
        said = await run_helper(name, "get", server.encode(), environ)
    except LoginUnknown:
        return ANONYMOUS
    try:
        document = json.loads(said)
        username, secret = str(document["Username"]), str(document["Secret"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"docker-credential-{name} answers with what is no login for {registry}"
        ) from None
    if username == "<token>":
        return Credential(identity_token=secret)
    return Credential(username, secret)


class LoginUnknown(InputError):
    """A credential helper knows no login for a host."""


async def run_helper(name: str, action: str, sent: bytes, environ: Mapping[str, str] | None) -> str:
    """Run ``docker-credential-NAME ACTION`` and return what it says; ``sent`` is its standard input.

    Raises `LoginUnknown`, and `InputError` for a helper that cannot be run or fails.
    """
    if not _HELPER_NAME.fullmatch(name):
        raise InputError(f"{name!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        with trio.fail_after(HELPER_SECONDS):
            done = await trio.run_process(
                [program, action],
                stdin=sent,
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
    said = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode == 0:
        return said
    if "credentials not found" in said.lower():
        raise LoginUnknown(f"{program} knows no login")
    text = printable(said or done.stderr.decode("utf-8", "replace").strip(), 200)
    raise InputError(f"{program} {action} fails (code {done.returncode}): {text}")
