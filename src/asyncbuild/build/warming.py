"""Images into the store before a build wants them: fetched and unpacked, all side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from asyncbuild.build.futures import Ledger
from asyncbuild.build.job import Job
from asyncbuild.build.outcome import one_error
from asyncbuild.build.supply import BaseImage, Supply
from asyncbuild.build.workers import WorkerPool
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.report.events import Reporter
from asyncbuild.store.store import Store


async def warm_images(
    images: Sequence[tuple[Reference, Platform]],
    store: Path,
    settings: RegistrySettings,
    reporter: Reporter,
) -> tuple[BaseImage, ...]:
    """Fetch each image for its platform and unpack its layers. Raises one AsyncbuildError."""
    with one_error():
        async with AsyncExitStack() as stack:
            registries = await stack.enter_async_context(Registries(settings))
            opened = stack.enter_context(await trio.to_thread.run_sync(Store.open, store))
            workers = await stack.enter_async_context(WorkerPool(max(2, os.cpu_count() or 2)))
            closing = await stack.enter_async_context(AsyncExitStack())
            async with trio.open_nursery() as nursery:
                job = Job(nursery, Ledger(), registries, opened, workers, reporter, 0, closing)
                supply = Supply(job, keep_blobs=True)
                flights = [supply.image(*image) for image in images]
                found = tuple([await flight.wait() for flight in flights])
                roots = [supply.root(image) for image in found]
                for root in roots:
                    await root.wait()
    return found
