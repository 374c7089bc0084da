"""Registries that do not delete, or do not let tags be moved, say so before anything is gone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.build.request import CachePlace
from asyncbuild.cache.upkeep import list_entries, remove_entries
from asyncbuild.errors import RegistryError
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_transport import DoubleTransport
from support.builds import HOST, World, requests_of


@pytest.fixture
def double(shm_path: Path) -> RegistryDouble:
    """A registry with a cache of two entries in one scope."""
    world = World.below(shm_path)
    world.write({"file": "text\n"})
    place = CachePlace(Reference.parse(f"{HOST}/cache:main"), everything=True)
    world.run("FROM scratch\nCOPY file /a\nCOPY file /b\n", "app:1", cache_to=(place,))
    world.double.log.clear()
    return world.double


async def prune_all(double: RegistryDouble) -> None:
    """Remove every entry."""
    settings = RegistrySettings(transport=DoubleTransport(double), chance=random.Random(7))
    async with Registries(settings) as registries:
        client = registries.client(HOST)
        entries = await list_entries(client, "cache")
        assert [entry.scopes for entry in entries] == [("main",), ("main",)]
        await remove_entries(client, "cache", entries)


def refusal(double: RegistryDouble) -> str:
    """What the error of a prune says, with its hint."""
    with pytest.raises(RegistryError) as raised, one_error():
        trio.run(prune_all, double)
    return raised.value.render()


def test_a_registry_without_delete(double: RegistryDouble) -> None:
    """The double deletes nothing (405), as many registries do not."""
    assert "does not delete images on request" in refusal(double)


def test_immutable_tags(double: RegistryDouble) -> None:
    """The index cannot be rewritten, so nothing that it lists is deleted."""
    double.quirks = replace(double.quirks, immutable=(400, "tag is immutable"))
    assert "nothing was deleted: the index main lists the entries" in refusal(double)
    assert requests_of(double, "DELETE") == []
