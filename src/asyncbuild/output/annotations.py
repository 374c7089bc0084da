"""Annotations as ``--output`` and ``--annotation`` write them, and the level that they belong to.

BuildKit's grammar (exporter/containerimage/exptypes/annotations.go):
``annotation[-LEVEL][[PLATFORM]].KEY=VALUE``, level ``manifest`` when none is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from asyncbuild.errors import UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.records import dataclass

_NAME = re.compile(r"annotation(?:-(?P<level>[a-z-]+))?(?:\[(?P<platform>[^\]]*)\])?\.(?P<key>.+)")
_OPTION = re.compile(r"(?P<level>[a-z-]+)(?:\[(?P<platform>[^\]]*)\])?")
_LEVELS_OF_AN_INDEX = ("index", "index-descriptor")


class AnnotationLevel(Enum):
    """The document that carries an annotation; the values are BuildKit's names."""

    MANIFEST = "manifest"
    DESCRIPTOR = "manifest-descriptor"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation; with a platform it is only for the image of that platform."""

    key: str
    value: str
    level: AnnotationLevel = AnnotationLevel.MANIFEST
    platform: Platform | None = None

    @property
    def attribute(self) -> tuple[str, str]:
        """Key and value as `parse_annotation` takes them."""
        level = "" if self.level is AnnotationLevel.MANIFEST else f"-{self.level.value}"
        place = f"[{self.platform}]" if self.platform else ""
        return f"annotation{level}{place}.{self.key}", self.value


def is_annotation(name: str) -> bool:
    """Whether an attribute of ``--output`` is an annotation."""
    return name.startswith(("annotation.", "annotation-", "annotation["))


def parse_annotation(name: str, value: str) -> Annotation:
    """Read an attribute ``annotation….KEY``; `UsageError` for levels that only an index has."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name} is not annotation.KEY")
    return Annotation(
        match["key"], value, _level(match["level"], name), _platform(match["platform"], name)
    )


def parse_annotation_option(text: str) -> tuple[Annotation, ...]:
    """Read a value of ``--annotation``: ``[LEVEL[[PLATFORM]],…:]KEY=VALUE``, one for each level named.

    As in buildx (util/buildflags, ParseAnnotations), so a key with a colon needs a level in front.
    """
    front, equals, value = text.partition("=")
    levels, colon, key = front.partition(":")
    if not equals or not (key if colon else front):
        raise UsageError(f"--annotation {text}: write KEY=VALUE")
    if not colon:
        return (Annotation(front, value),)
    found = []
    for item in levels.split(","):
        match = _OPTION.fullmatch(item)
        if match is None:
            raise UsageError(f"--annotation {text}: {item!r} is not LEVEL or LEVEL[PLATFORM]")
        level, platform = _level(match["level"], text), _platform(match["platform"], text)
        found.append(Annotation(key, value, level, platform))
    return tuple(found)


def annotations_at(
    annotations: Iterable[Annotation], level: AnnotationLevel, platform: Platform
) -> dict[str, str]:
    """What an image for ``platform`` gets at one level; of two with one key the later wins."""
    return {
        item.key: item.value
        for item in annotations
        if item.level is level and (item.platform is None or item.platform.accepts(platform))
    }


def _level(text: str | None, name: str) -> AnnotationLevel:
    if text is None:
        return AnnotationLevel.MANIFEST
    if text in _LEVELS_OF_AN_INDEX:
        raise UsageError(f"{name}: annotations of an index are not in this version")
    try:
        return AnnotationLevel(text)
    except ValueError:
        raise UsageError(f"{name}: {text} is not a level (manifest, manifest-descriptor)") from None


def _platform(text: str | None, name: str) -> Platform | None:
    if text is None:
        return None
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
