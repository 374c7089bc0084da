"""Where the images of a registry are: mirrors, maps, the files of containerd, docker and containers tools.

A `Route` is one way to a repository's content. For a pull they are tried in this order: the mirrors that
the command line names, those of ``registries.conf``, the hosts of ``hosts.toml``, and last the registry
itself (where those files say that it is). A push has one route.

Files are read when a registry is first asked for: blocking, and short.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from asyncbuild.errors import InputError, NotAuthorized
from asyncbuild.image.reference import DOCKER_HUB
from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.hosts_toml import PULL, PUSH, RESOLVE, HostsFile, parse_hosts_toml
from asyncbuild.registry.mirrors import Mirrors
from asyncbuild.registry.protocol import DOCKER_HUB_API
from asyncbuild.registry.registries_conf import (
    Location,
    RegistriesConf,
    RegistryEntry,
    parse_registries_conf,
)

_SYSTEM = ("/etc/containers/certs.d", "/etc/docker/certs.d", "/etc/containerd/certs.d")


@dataclass(frozen=True, slots=True)
class Route:
    """A host (named as in `Reference.registry`), the repository there, how it is spoken to, and whose
    images it is told that are meant (``?ns=``, "" for its own).
    """

    host: str
    repository: str
    settings: HostSettings
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Files:
    """Directories with a directory for each host, the most important first; registries.conf's tables."""

    directories: tuple[str, ...] = ()
    conf: RegistriesConf = field(default_factory=RegistriesConf)


def find_files(
    environ: Mapping[str, str],
    home: str,
    directories: Sequence[str] = (),
    conf: str | None = None,
) -> Files:
    """What is configured on this machine; ``directories`` come first, ``conf`` is read instead of the
    usual ``registries.conf``.

    Raises `InputError` for a file that is damaged, or that is named and missing.
    """
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    places = (*directories, os.path.join(config, "containers", "certs.d"), *_SYSTEM)
    named = conf or environ.get("CONTAINERS_REGISTRIES_CONF")
    if named:
        found = parse_registries_conf(_read(named), named)
        return Files(places, found)
    found = RegistriesConf()
    for base in (os.path.join(config, "containers"), "/etc/containers"):
        for path in (
            *_drop_ins(os.path.join(base, "registries.conf.d")),
            f"{base}/registries.conf",
        ):
            if os.path.isfile(path):
                found = found.over(parse_registries_conf(_read(path), path))
    return Files(places, found)


def _drop_ins(directory: str) -> list[str]:
    """The files of a ``.d`` directory, the last first: later files win."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".conf"))
    except OSError:
        return []
    return [os.path.join(directory, name) for name in reversed(names)]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{path} cannot be read: {reason}") from None


class Places:
    """Finds routes. ``hosts`` and ``others`` are what the command line says of hosts, and win."""

    def __init__(
        self,
        files: Files,
        mirrors: Mirrors,
        hosts: Mapping[str, HostSettings],
        others: HostSettings,
    ) -> None:
        self._files = files
        self._mirrors = mirrors
        self._hosts = hosts
        self._others = others
        self._known: dict[str, HostsFile] = {}
        self._settings: dict[str, HostSettings] = {}

    def settings(self, host: str) -> HostSettings:
        """How a host is spoken to: what was said of it, and its certificates in ``certs.d``."""
        if host not in self._settings:
            found = self._hosts.get(host, self._others).over(self._certificates(host))
            self._settings[host] = self._as_configured(found, host, "")
        return self._settings[host]

    def _as_configured(
        self, settings: HostSettings, registry: str, repository: str
    ) -> HostSettings:
        entry = self._files.conf.find(registry, repository)
        return replace(settings, insecure=True) if entry and entry[0].insecure else settings

    def pull(self, registry: str, repository: str, *, tag: bool) -> tuple[Route, ...]:
        """The routes to an image, by tag or by digest (blobs too), in their order; never empty.

        Raises `NotAuthorized` for a registry that ``registries.conf`` blocks.
        """
        routes = [
            self._route(mirror.registry, mirror.place_of(repository), plain=mirror.plain)
            for mirror in self._mirrors.places.get(registry, ())
        ]
        fallback = not routes or self._mirrors.fallback
        own = self._own(registry, repository, PULL)
        entry = self._entry(registry, repository)
        if entry is not None:
            table, rest = entry
            mirrors = [item.location for item in table.mirrors if item.serves(tag=tag)]
            routes += [self._at(location, rest) for location in mirrors]
            moved = self._at(table.location, rest) if table.location is not None else own
            if (moved.host, moved.repository) != (registry, repository):
                own = moved
        routes += self._hosts_of(registry, repository, RESOLVE if tag else PULL)
        return tuple(dict.fromkeys((*routes, *([own] if fallback else []))))

    def push(self, registry: str, repository: str) -> Route:
        """The route that a push takes."""
        self._entry(registry, repository)
        pushed = self._hosts_of(registry, repository, PUSH)
        return pushed[0] if pushed else self._own(registry, repository, PUSH)

    def _entry(self, registry: str, repository: str) -> tuple[RegistryEntry, str] | None:
        entry = self._files.conf.find(registry, repository)
        if entry is not None and entry[0].blocked:
            raise NotAuthorized(
                f"{registry}/{repository} is blocked", hint="registries.conf says blocked = true"
            )
        return entry

    def _route(self, host: str, repository: str, *, plain: bool = False) -> Route:
        settings = self.settings(host)
        if plain:
            settings = replace(settings, insecure=True, plain=True)
        return Route(host, repository, settings)

    def _at(self, location: Location, rest: str) -> Route:
        settings = self.settings(location.host)
        if location.insecure:
            settings = replace(settings, insecure=True)
        return Route(location.host, location.place(rest), settings)

    def _hosts_of(self, registry: str, repository: str, capability: str) -> list[Route]:
        return [
            Route(
                endpoint.host,
                repository,
                endpoint.settings.over(self.settings(endpoint.host)),
                "" if endpoint.host == registry else registry,
            )
            for endpoint in self._hosts_file(registry).hosts
            if capability in endpoint.capabilities
        ]

    def _own(self, registry: str, repository: str, capability: str) -> Route:
        settings = self._as_configured(self.settings(registry), registry, repository)
        server = self._hosts_file(registry).server
        if server is None or capability not in server.capabilities:
            return Route(registry, repository, settings)
        found = server.settings.over(settings if server.host == registry else HostSettings())
        said = self._hosts.get(registry, self._others)
        if said.insecure or said.plain is not None:
            found = replace(found, insecure=said.insecure, plain=said.plain)
        return Route(server.host, repository, found, "" if server.host == registry else registry)

    def _directory(self, host: str, *names: str) -> str | None:
        """The first directory of a host that has one of ``names``, or one that ends so."""
        for place in self._files.directories:
            for name in _names_of(host):
                directory = os.path.join(place, name)
                try:
                    found = os.listdir(directory)
                except OSError:
                    continue
                if any(file.endswith(names) for file in found):
                    return directory
        return None

    def _hosts_file(self, registry: str) -> HostsFile:
        if registry not in self._known:
            directory = self._directory(registry, "hosts.toml") or self._directory(
                "_default", "hosts.toml"
            )
            found = HostsFile()
            if directory is not None:
                path = os.path.join(directory, "hosts.toml")
                found = parse_hosts_toml(_read(path), path, _api_name(registry))
            self._known[registry] = found
        return self._known[registry]

    def _certificates(self, host: str) -> HostSettings:
        """Docker's files: ``*.crt`` are authorities, ``*.cert`` with ``*.key`` is what we show."""
        directory = self._directory(host, ".crt", ".cert")
        if directory is None or os.path.exists(os.path.join(directory, "hosts.toml")):
            return HostSettings()
        names = sorted(os.listdir(directory))
        authorities = tuple(
            os.path.join(directory, name) for name in names if name.endswith(".crt")
        )
        client = None
        for name in names:
            stem, dot, ending = name.rpartition(".")
            if dot and ending == "cert":
                key = os.path.join(directory, f"{stem}.key")
                if not os.path.exists(key):
                    raise InputError(f"{directory}/{name} has no key: {key} is missing")
                client = client or (os.path.join(directory, name), key)
        return HostSettings(ca_files=authorities, client_certificate=client)


def _names_of(host: str) -> tuple[str, ...]:
    """The names of a host's directory: containerd also writes ``_5000_`` for ``:5000``."""
    if host == DOCKER_HUB:
        return (DOCKER_HUB, DOCKER_HUB_API)
    name, colon, port = host.rpartition(":")
    return (host, f"{name}_{port}_") if colon and port.isdigit() else (host,)


def _api_name(registry: str) -> str:
    return DOCKER_HUB_API if registry == DOCKER_HUB else registry
