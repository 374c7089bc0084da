"""How full a far link is while layers come: in the time of the link's model, which no other load touches."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from asyncbuild.build.fetching import Fetch
from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.streams import Streams
from asyncbuild.build.supply import MAX_STREAMS
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_LAYER_GZIP, Descriptor
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.testing.linkmodel import LinkShape, fetch_seconds
from support.far import FarRegistry, let_time_pass

HALF_GIGABYTE = 500_000_000


def seconds(shape: LinkShape, size: int) -> float:
    """How long a blob takes that is alone, from the first SYN to its last byte in the file."""
    clock = trio.testing.MockClock()

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass, clock)
            far = FarRegistry(shape, size, nursery)
            async with Registries(RegistrySettings(transport=far)) as registries:
                descriptor = Descriptor(OCI_LAYER_GZIP, Digest.of(b""), size)
                file = GrowingFile(Path("/dev/null"), size)
                client = registries.client("registry.example")
                begun = trio.current_time()
                streams = Streams(MAX_STREAMS)
                await Fetch(client, "base", descriptor, file, streams, lambda _: None).run()
                file.close()
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
