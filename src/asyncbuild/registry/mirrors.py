"""Mirrors: other places where the images of a registry are looked for first. Pure.

The rules are kaniko's (``pkg/image/remote/remote.go``): the mirrors of a registry are asked in their order,
each under ``prefix/`` and the image's own repository; then the registry itself, unless that is ruled out.
Pushes never go to a mirror.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self

from asyncbuild.errors import UsageError
from asyncbuild.image.reference import DOCKER_HUB, InvalidReference, Reference
from asyncbuild.records import dataclass, field

_SCHEME = re.compile(r"(https?)://", re.IGNORECASE)
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Mirror:
    """A place: a registry host, and what stands there before an image's repository (without slashes at
    its ends). ``plain``: it was written with ``http://``.
    """

    registry: str
    prefix: str = ""
    plain: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``[http[s]://]HOST[:PORT][/PREFIX]``; raises `UsageError` for what is none."""
        scheme = _SCHEME.match(text)
        place = (text[scheme.end() :] if scheme else text).strip("/")
        host, _, prefix = place.partition("/")
        try:
            # a first part with a port is always a host, so that "mirror/path" is one too
            Reference.parse_repository(f"{host if ':' in host else f'{host}:443'}/{prefix or 'x'}")
        except InvalidReference:
            raise UsageError(f"{text!r} is no registry: write HOST[:PORT][/PATH]") from None
        plain = scheme is not None and scheme[1].lower() == "http"
        return cls(registry_name(host), prefix, plain)

    def place_of(self, repository: str) -> str:
        """Where a repository is at this mirror."""
        return "/".join(filter(None, (self.prefix, repository)))


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The mirrors of each registry, by its name; ``fallback``: the registry itself comes last."""

    places: Mapping[str, tuple[Mirror, ...]] = field(default_factory=dict)
    fallback: bool = True


def registry_name(host: str) -> str:
    """A registry's name as `Reference.registry` has it: Docker Hub has one name only."""
    return DOCKER_HUB if host in _HUB_NAMES else host
