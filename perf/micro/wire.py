"""Figures of ``registry``: one large blob down and up, against a docker-registry on the same two
cores.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import trio
from perf.farsite import Registry
from perf.micro.figure import PASSES, Figure

from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.registry.bodies import ChunksBody
from asyncbuild.registry.registries import Registries
from asyncbuild.registry.upload import UploadSession

_SIZE = 200_000_000
_PIECE = 1024 * 1024


def figures(scratch: Path) -> Iterator[Figure]:
    """Download and upload of 200 MB; and of a hundred small manifests one after the other."""
    with Registry(scratch / "registry") as registry:
        for name, measured in trio.run(_both, registry.address):
            wall, cpu = min(measured)
            yield Figure(name, _SIZE / 1e6 / wall, "MB/s", wall, cpu)


async def _both(address: str) -> list[tuple[str, list[tuple[float, float]]]]:
    data = bytes(range(256)) * (_SIZE // 256)
    digest = Digest.of(data)
    descriptor = Descriptor("application/octet-stream", digest, len(data))

    async def upload() -> None:
        async with Registries() as registries:
            session = await registries.client(address).mount_or_start_upload("micro/blob")
            assert isinstance(session, UploadSession)
            await session.stream(ChunksBody(_pieces(data), len(data)))
            await session.close(digest)

    async def download() -> None:
        async with Registries() as registries:
            async with registries.client(address).open_blob("micro/blob", descriptor) as chunks:
                async for _ in chunks:
                    pass

    return [("upload", await _times(upload)), ("download", await _times(download))]


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]


async def _times(work: Callable[[], Awaitable[None]]) -> list[tuple[float, float]]:
    taken = []
    for _ in range(PASSES):
        cpu, wall = time.process_time(), time.perf_counter()
        await work()
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return taken
