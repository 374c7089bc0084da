"""Image references as people write them, and as a registry knows them.

The grammar is that of distribution/reference: ``[registry/]repository[:tag][@digest]``; a first part
without a dot, a colon or ``localhost`` belongs to the repository, and the registry is Docker Hub.
"""

from __future__ import annotations

import re

from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.records import dataclass, replace

DOCKER_HUB = "docker.io"
_HUB_HOSTS = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")


class InvalidReference(ValueError):
    """Text that is not an image reference; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A registry host (with port), a repository in it, and a tag, a digest, or both.

    References sort by their text.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse ``text``; without tag and digest the tag is ``latest``."""
        reference = cls.parse_repository(text)
        if reference.tag is None and reference.digest is None:
            return replace(reference, tag="latest")
        return reference

    @classmethod
    def parse_repository(cls, text: str) -> Reference:
        """Parse ``text`` and add no default tag."""
        name, digest = _split_digest(text)
        name, tag = _split_tag(name)
        registry, repository = _split_registry(name)
        if not _REGISTRY.fullmatch(registry):
            raise InvalidReference(f"{text!r}: {registry!r} is not a registry host")
        if not _REPOSITORY.fullmatch(repository):
            lower = " (a repository is lower case)" if repository != repository.lower() else ""
            raise InvalidReference(f"{text!r}: {repository!r} is not a repository name{lower}")
        if len(repository) > 255:
            raise InvalidReference(f"{text[:64]!r}…: a repository has at most 255 characters")
        if tag is not None and not _TAG.fullmatch(tag):
            raise InvalidReference(f"{text!r}: {tag!r} is not a tag")
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """``registry/repository`` without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> Reference:
        """The one spelling of this image for rules: its host in lower case, without the default port, and
        Docker Hub by its name.
        """
        return replace(self, registry=canonical_host(self.registry))

    @property
    def identifier(self) -> str:
        """What a manifest URL ends with: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else (self.tag or "latest")

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository, pinned to ``digest``; the tag is kept for people to read."""
        return replace(self, digest=digest)

    @property
    def familiar(self) -> str:
        """The shortest form that is read back as this reference: Docker Hub's name is left out."""
        text = str(self)
        if self.registry != DOCKER_HUB:
            return text
        first, slash, rest = self.repository.partition("/")
        short = text.removeprefix(f"{DOCKER_HUB}/")
        if first == "library" and slash and "/" not in rest:
            return short.removeprefix("library/")
        # A first part that looks like a host would be read as one.
        return text if _is_registry(first) or not slash else short

    def __lt__(self, other: Reference) -> bool:
        return str(self) < str(other)

    def __str__(self) -> str:
        text = self.name
        if self.tag is not None:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text


def canonical_host(registry: str) -> str:
    """A registry's host in the one spelling that `Reference.canonical` has."""
    host, colon, port = registry.lower().rpartition(":")
    if not colon or not port.isdecimal():
        host, port = registry.lower(), ""
    if host in _HUB_HOSTS:
        host = DOCKER_HUB
    return host if not port or int(port) == 443 else f"{host}:{int(port)}"


def _split_digest(text: str) -> tuple[str, Digest | None]:
    if not text:
        raise InvalidReference("an image reference is empty")
    name, at, digest = text.partition("@")
    try:
        return name, Digest.parse(digest) if at else None
    except InvalidDigest as error:
        raise InvalidReference(f"{text!r}: {error}") from None


def _split_tag(name: str) -> tuple[str, str | None]:
    head, colon, tail = name.rpartition(":")
    return (head, tail) if colon and "/" not in tail and "]" not in tail else (name, None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and _is_registry(first):
        registry, repository = first, rest
    else:
        registry, repository = DOCKER_HUB, name
    if registry == "index.docker.io":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _is_registry(first: str) -> bool:
    """Whether the first of several parts is a registry's host (distribution/reference, normalize.go)."""
    looks_like_host = first == "localhost" or any(mark in first for mark in ".:[")
    return looks_like_host or first != first.lower()
