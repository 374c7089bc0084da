"""Named build contexts (``--build-context name=place``): what they stand for in a plan. Pure.

As in BuildKit (frontend/dockerui ``NamedContext``; buildx ``LoadInputs``):

1. A context replaces the stage of its name, and the image of its name where no stage has it. Names are
   compared as images are called: ``alpine`` is ``docker.io/library/alpine:latest``.
2. ``name::os/arch`` is for that platform, and wins over ``name``.
3. ``docker-image://REF`` is an image (``scratch`` the empty one), ``oci-layout://PATH[:TAG][@DIGEST]`` an
   image of an OCI layout; everything else is files: a directory, a git repository, the one file behind
   a URL, which is called ``context``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from asyncbuild.errors import UsageError
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.plan.nouns import Base, ContextRef, ImageRef, Scratch
from asyncbuild.records import dataclass, field

LAYOUT_HOST = "oci-layout.invalid"
"""The registry of images that are in an OCI layout on this machine (RFC 2606: no host is called so)."""

_IMAGE = "docker-image://"
_LAYOUT = "oci-layout://"


@dataclass(frozen=True, slots=True)
class NamedContexts:
    """The contexts of one build by the names that they replace; ``layouts`` is where images of
    `LAYOUT_HOST` are, by repository.
    """

    places: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, places: Mapping[str, str]) -> NamedContexts:
        """From names and places as they are on the command line. Raises `UsageError`."""
        named = {_named(name): place for name, place in places.items()}
        layouts = {
            _slug(name): _layout(place)[0]
            for name, place in named.items()
            if place.startswith(_LAYOUT)
        }
        found = cls(named, layouts)
        for name in named:
            found._base(name, Platform("linux", "amd64"))  # what is wrong is said at once
        return found

    def find(self, name: str, platform: Platform) -> Base | None:
        """What the context called ``name`` is for ``platform``; None if there is none."""
        if not self.places:
            return None
        try:
            called = _called(name)
        except InvalidReference:
            return None
        for key in (f"{called}::{platform}", called):
            if key in self.places:
                return self._base(key, platform)
        return None

    def _base(self, key: str, platform: Platform) -> Base:
        place = self.places[key]
        if place.startswith(_IMAGE):
            text = place.removeprefix(_IMAGE)
            if text == "scratch":
                return Scratch()
            try:
                return ImageRef(real_reference(text), platform)
            except InvalidReference as error:
                raise UsageError(f"--build-context {key}: {error}") from None
        if place.startswith(_LAYOUT):
            _, tag, digest = _layout(place)
            return ImageRef(Reference(LAYOUT_HOST, _slug(key), tag, digest), platform)
        if place.startswith("target:"):
            raise UsageError(f"--build-context {key}={place}: targets are known to bake files only")
        return ContextRef(key, place)


def real_reference(text: str) -> Reference:
    """An image's name, which no layout is meant by: InvalidReference for `LAYOUT_HOST` too."""
    reference = Reference.parse(text)
    if reference.registry == LAYOUT_HOST:
        raise InvalidReference(
            f"{text}: no registry is called {LAYOUT_HOST}; an image of an OCI layout is named by"
            " --build-context NAME=oci-layout://PATH"
        )
    return reference


def _named(text: str) -> str:
    """The name of an option as `NamedContexts.find` looks for it."""
    name, colons, platform = text.partition("::")
    try:
        wanted = f"::{Platform.parse(platform)}" if colons else ""
        return _called(name) + wanted
    except (InvalidReference, ValueError) as error:
        raise UsageError(f"--build-context {text}: {error}") from None


def _called(name: str) -> str:
    return Reference.parse(name).familiar.removesuffix(":latest")


def _slug(name: str) -> str:
    """A repository of `LAYOUT_HOST` for each name, and no other one for two names."""
    return re.sub(r"[^a-z0-9./-]", lambda found: f"_{ord(found[0]):02x}", name)


def _layout(place: str) -> tuple[str, str | None, Digest | None]:
    """Path, tag and digest; without either the tag is ``latest``."""
    rest, at, text = place.removeprefix(_LAYOUT).partition("@")
    path, colon, tag = rest.partition(":")
    try:
        digest = Digest.parse(text) if at else None
    except InvalidDigest as error:
        raise UsageError(f"--build-context {place}: {error}") from None
    return path, tag if colon else None if digest else "latest", digest
