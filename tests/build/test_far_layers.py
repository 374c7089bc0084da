"""How full a far link is while layers come: in the time of the link's model, which no other load touches."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from asyncbuild.build.fetching import Fetch
from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.streams import Streams
from asyncbuild.build.supply import BRIEF_STREAMS, MAX_STREAMS
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_LAYER_GZIP, Descriptor
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.testing.linkmodel import LinkShape, fetch_seconds
from support.far import FarRegistry, let_time_pass

HALF_GIGABYTE = 500_000_000


async def closing(file: GrowingFile) -> None:
    """Close a file when everything is there."""
    await file.wait_settled()
    file.close()


def seconds(shape: LinkShape, *sizes: int) -> float:
    """How long blobs take that are asked for together, from the first SYN to the last byte in a file."""
    clock = trio.testing.MockClock()

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass, clock)
            blobs = {Digest.of(b"%d" % place): size for place, size in enumerate(sizes)}
            far = FarRegistry(shape, blobs, nursery)
            async with Registries(RegistrySettings(transport=far)) as registries:
                client = registries.client("registry.example")
                begun = trio.current_time()
                streams = Streams(MAX_STREAMS, BRIEF_STREAMS)
                async with trio.open_nursery() as fetches:
                    for digest, size in blobs.items():
                        descriptor = Descriptor(OCI_LAYER_GZIP, digest, size)
                        file = GrowingFile(Path("/dev/null"), size)
                        nursery.start_soon(closing, file)
                        fetch = Fetch(client, "base", descriptor, file, streams, lambda _: None)
                        fetches.start_soon(fetch.run)
                took = trio.current_time() - begun
            nursery.cancel_scope.cancel()
        return took

    return trio.run(main, clock=clock)


@pytest.mark.parametrize("per_connection", [0, 25e6], ids=["windows of 3 MiB", "25 MB/s each"])
def test_a_layer_that_is_alone_fills_the_link(per_connection: float) -> None:
    """Half a gigabyte over a gigabit and 100 ms: 85 % of the link, slow start and all (issue 3)."""
    shape = LinkShape(rtt=0.1, bandwidth=125e6, per_connection=per_connection)
    took = seconds(shape, HALF_GIGABYTE)
    assert HALF_GIGABYTE / shape.bandwidth / took >= 0.85
    assert fetch_seconds(shape, HALF_GIGABYTE) / took >= 2


def test_small_layers_beside_a_large_one_cost_no_round_trips_of_their_own() -> None:
    """Thirty-one of a megabyte and one of fifty: sooner here than one blob of all their bytes, as more windows
    open at once.
    """
    shape = LinkShape(rtt=0.1, bandwidth=125e6, per_connection=25e6)
    sizes = [51_000_000] + 31 * [1_000_000]
    together, alone = seconds(shape, *sizes), seconds(shape, sum(sizes))
    assert together <= 0.92 * alone, (together, alone)
