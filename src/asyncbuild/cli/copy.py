"""``asyncbuild copy``: from registry to registry."""

from __future__ import annotations

import argparse

from asyncbuild.cli.transferring import (
    Desk,
    copy_everywhere,
    narrowed,
    platforms,
    reference_of,
    references,
    transfer,
)
from asyncbuild.cli.verify_options import read_verification
from asyncbuild.image.digest import Digest
from asyncbuild.transfer.sources import RegistrySource


def copy(options: argparse.Namespace) -> int:
    """Copy an image to every name."""
    source = reference_of(options.source)
    names = references(options.destinations, "")
    wanted = platforms(options.platform)
    verification = read_verification(options)

    async def work(desk: Desk) -> Digest:
        client = desk.registries.client(source.registry)
        client.expect(source.repository, "pull")
        for name in names:
            desk.registries.client(name.registry).expect(name.repository, "pull", "push")
        place = RegistrySource(client, source, desk.nursery)
        found = await client.resolve(source)
        await verification.verify(client, found.manifest, source)
        image = await narrowed(place, found, wanted)
        await copy_everywhere(desk, place, image, names)
        return image.digest

    return transfer(options, work)
