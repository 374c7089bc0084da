"""Names of base images in a second build: what is asked of a registry, and what the store knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncbuild.image.manifest import Manifest
from asyncbuild.testing.registry import RegistryDouble
from support.builds import AMD64, HOST, World, add_busybox


@pytest.mark.parametrize("indexed", [True, False])
def test_a_digest_needs_no_registry(shm_path: Path, *, indexed: bool) -> None:
    """By tag one request says what it means now; by digest there is none, of an index either."""
    double = RegistryDouble()
    add_busybox(double)
    manifest = double.manifest("base/busybox", "latest")
    assert isinstance(manifest, Manifest)
    if indexed:
        index = double.add_index("base/busybox", "latest", {AMD64: manifest})
    digest = index.digest if indexed else manifest.digest
    world = World.below(shm_path, double)
    world.write({"a": "a"})
    for name, requests in (
        ("base/busybox", 3 + indexed),  # the manifest, the configuration, the layer
        ("base/busybox", 1),
        (f"base/busybox@{digest}", 0),
    ):
        double.log.clear()
        world.run(f"FROM {HOST}/{name}\nCOPY a /a\n", "app:1")
        assert len(double.asked("GET")) == requests


def test_a_damaged_manifest_is_fetched_again(shm_path: Path) -> None:
    """What the store has under a digest is compared with it."""
    double = RegistryDouble()
    add_busybox(double)
    manifest = double.manifest("base/busybox", "latest")
    world = World.below(shm_path, double)
    dockerfile = f"FROM {HOST}/base/busybox@{manifest.digest}\nLABEL a=b\n"
    world.run(dockerfile, "app:1")
    (world.store / "blobs/sha256" / manifest.digest.hex).write_bytes(b"damaged")
    world.run(dockerfile, "app:2")
    assert world.wrong() == []
