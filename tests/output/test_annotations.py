"""Which annotation an image gets."""

from asyncbuild.image.platform import Platform
from asyncbuild.output.annotations import Annotation, AnnotationLevel, annotations_at

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
