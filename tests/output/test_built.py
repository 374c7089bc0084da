"""The finished image: its descriptor and its media types."""

from dataclasses import replace
from pathlib import Path

import pytest

from asyncbuild.errors import UsageError
from asyncbuild.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_ZSTD,
    Manifest,
)
from asyncbuild.output.built import BuiltImage
from support.built_sample import AMD64, CREATED, make_sample


def test_descriptor(shm_path: Path) -> None:
    """The descriptor points at the manifest, with platform, creation time and own annotations."""
    image = replace(make_sample(shm_path / "s").image, annotations={"z": "1", "a": "2"})
    found = image.descriptor
    assert found.digest == image.manifest.digest
    assert found.size == len(image.manifest.raw)
    assert found.platform == AMD64
    assert list(found.annotations.items()) == [
        ("a", "2"),
        ("org.opencontainers.image.created", CREATED),
        ("z", "1"),
    ]


def test_media_types_there_and_back(shm_path: Path) -> None:
    """Docker's types and OCI's are exchanged in the manifest, configuration and layers."""
    image = make_sample(shm_path / "s").image
    docker = image.with_media_types(docker=True)
    types = [layer.media_type for layer in docker.manifest.layers]
    assert docker.manifest.media_type == DOCKER_MANIFEST
    assert docker.manifest.config.media_type == DOCKER_CONFIG
    assert types == [DOCKER_LAYER_GZIP, DOCKER_LAYER]
    assert docker.with_media_types(docker=False) == image
    assert image.with_media_types(docker=False) is image


def test_docker_has_no_zstd(shm_path: Path) -> None:
    """Zstd layers cannot have docker's media types."""
    image = make_sample(shm_path / "s").image
    layers = tuple(replace(item, media_type=OCI_LAYER_ZSTD) for item in image.manifest.layers)
    zstd = Manifest.make(image.manifest.config, layers)
    with pytest.raises(UsageError, match="zstd"):
        BuiltImage(zstd, image.config, AMD64).with_media_types(docker=True)
