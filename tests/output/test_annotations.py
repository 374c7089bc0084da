"""Which annotation an image gets."""

import pytest

from asyncbuild.errors import UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.output.annotations import (
    Annotation,
    AnnotationLevel,
    annotations_at,
    parse_annotation_option,
)

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def test_by_level_and_platform() -> None:
    """An annotation goes to its level only, and one with a platform to that platform only."""
    found = (
        Annotation("a", "1"),
        Annotation("a", "2", platform=ARM64),
        Annotation("b", "3", AnnotationLevel.DESCRIPTOR),
    )
    assert annotations_at(found, AnnotationLevel.MANIFEST, AMD64) == {"a": "1"}
    assert annotations_at(found, AnnotationLevel.MANIFEST, ARM64) == {"a": "2"}
    assert annotations_at(found, AnnotationLevel.DESCRIPTOR, AMD64) == {"b": "3"}


def test_options() -> None:
    """``--annotation`` takes a key, or levels with platforms in front of it."""
    descriptor = AnnotationLevel.DESCRIPTOR
    assert parse_annotation_option("a=b=c") == (Annotation("a", "b=c"),)
    assert parse_annotation_option("manifest:a:b=") == (Annotation("a:b", ""),)
    assert parse_annotation_option("manifest[linux/arm64],manifest-descriptor:Key=v") == (
        Annotation("Key", "v", platform=ARM64),
        Annotation("Key", "v", descriptor),
    )


@pytest.mark.parametrize("text", ["", "a", "=b", "manifest:=v", "index:a=b", "x:a=b", "M!:a=b"])
def test_options_refused(text: str) -> None:
    """No key, an unknown level, and the levels of an index are refused."""
    with pytest.raises(UsageError):
        parse_annotation_option(text)
