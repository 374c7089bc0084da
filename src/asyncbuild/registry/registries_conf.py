"""``registries.conf``, version 2: mirrors, locations and blocked registries by prefix. Pure.

The file is that of podman, buildah and skopeo (containers-registries.conf(5)). The table with the longest
prefix of an image's name counts. Its mirrors are asked first, each for digests, tags or both; then its
location. Pushes go to the registry that was named. Short names are not ours: a name without a host is
Docker Hub's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncbuild.errors import InputError
from asyncbuild.records import dataclass

_WHEN = frozenset({"all", "digest-only", "tag-only"})


@dataclass(frozen=True, slots=True)
class Location:
    """``HOST[:PORT][/PATH]``, and whether plain http and any certificate will do there."""

    host: str
    path: str = ""
    insecure: bool = False

    @classmethod
    def parse(cls, text: str, *, insecure: bool) -> Location:
        """Read it; the host in lower case."""
        host, _, path = text.strip().strip("/").partition("/")
        return cls(host.lower(), path, insecure)

    def place(self, rest: str) -> str:
        """The repository below it that stands for what followed the prefix."""
        return "/".join(filter(None, (self.path, rest)))


@dataclass(frozen=True, slots=True)
class MirrorEntry:
    """A mirror: asked for ``all``, ``digest-only`` or ``tag-only``."""

    location: Location
    when: str = "all"

    def serves(self, *, tag: bool) -> bool:
        """Whether it is asked for a tag, or for a digest."""
        return self.when != ("digest-only" if tag else "tag-only")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One ``[[registry]]``: the images whose name begins with ``prefix``."""

    prefix: str
    location: Location | None = None
    mirrors: tuple[MirrorEntry, ...] = ()
    blocked: bool = False
    insecure: bool = False

    def rest(self, name: str) -> str | None:
        """What follows the prefix in ``host/repository``; None if the entry is about others.

        ``*.example.com`` is every host below that one: then what follows is the repository.
        """
        if self.prefix.startswith("*."):
            host, _, repository = name.partition("/")
            return repository if host.partition(":")[0].endswith(self.prefix[1:]) else None
        if name == self.prefix:
            return ""
        return name[len(self.prefix) + 1 :] if name.startswith(f"{self.prefix}/") else None


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """All tables of all files."""

    entries: tuple[RegistryEntry, ...] = ()

    def find(self, registry: str, repository: str = "") -> tuple[RegistryEntry, str] | None:
        """The table that counts for a repository, and what follows its prefix there."""
        name = f"{registry}/{repository}".rstrip("/")
        found = [(entry, entry.rest(name)) for entry in self.entries]
        fitting = [(entry, rest) for entry, rest in found if rest is not None]
        return max(fitting, key=lambda pair: len(pair[0].prefix), default=None)

    def over(self, other: RegistriesConf) -> RegistriesConf:
        """These tables, and those of ``other`` whose prefix is not among them."""
        prefixes = {entry.prefix for entry in self.entries}
        kept = (entry for entry in other.entries if entry.prefix not in prefixes)
        return RegistriesConf((*self.entries, *kept))


def parse_registries_conf(text: str, path: str) -> RegistriesConf:
    """Decode a file; raises `InputError`, which names ``path``."""
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return RegistriesConf()  # as distributions ship it: no parser is needed for that
    import tomllib  # noqa: PLC0415

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    tables = document.get("registry", [])
    if not isinstance(tables, list):
        raise InputError(
            f"{path} is of version 1, which is no longer read: write [[registry]] tables"
        )
    return RegistriesConf(tuple(_entry(table, path) for table in tables))


def _entry(table: Any, path: str) -> RegistryEntry:
    if not isinstance(table, dict):
        raise InputError(f"{path}: a registry is no table")
    location, prefix = (_text(table, name, path) for name in ("location", "prefix"))
    if not (location or prefix):
        raise InputError(f"{path}: a [[registry]] has neither prefix nor location")
    mirrors = table.get("mirror", [])
    if not isinstance(mirrors, list):
        raise InputError(f"{path}: mirror is no list of tables")
    insecure = _flag(table, "insecure", path)
    digests_only = _flag(table, "mirror-by-digest-only", path)
    host, slash, rest = (prefix or location).strip("/").partition("/")
    return RegistryEntry(
        prefix=f"{host.lower()}{slash}{rest}",
        location=Location.parse(location, insecure=insecure) if location else None,
        mirrors=tuple(_mirror(item, path, digests_only=digests_only) for item in mirrors),
        blocked=_flag(table, "blocked", path),
        insecure=insecure,
    )


def _mirror(table: Any, path: str, *, digests_only: bool) -> MirrorEntry:
    location = _text(table, "location", path) if isinstance(table, dict) else ""
    if not location:
        raise InputError(f"{path}: a mirror has no location")
    when = _text(table, "pull-from-mirror", path) or ("digest-only" if digests_only else "all")
    if when not in _WHEN:
        raise InputError(f"{path}: pull-from-mirror is {when!r}: it is {', '.join(sorted(_WHEN))}")
    return MirrorEntry(Location.parse(location, insecure=_flag(table, "insecure", path)), when)


def _text(table: Mapping[str, Any], name: str, path: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"{path}: {name} is no text")
    return value


def _flag(table: Mapping[str, Any], name: str, path: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{path}: {name} is neither true nor false")
    return value
