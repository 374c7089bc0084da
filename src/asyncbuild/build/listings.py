"""Listings of bases: what COPY and WORKDIR must know of a base, without its layers.

1. When a base has been unpacked its listing is made by a worker, off every path, and kept in the store
   under the base's ChainID; with a cache to export to, it goes there too.
2. A stage that puts something on a base asks for its listing while the keys are looked up: the store first,
   then all caches at once. What a cache gave is kept in the store.
3. Where a RUN follows, what the listing answered is compared with the base once that is here (see
   `asyncbuild.build.guess`); a listing that was wrong is made anew.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import trio

from asyncbuild.build.caching import Cache
from asyncbuild.build.futures import Future
from asyncbuild.build.job import Job
from asyncbuild.build.resolving import BaseImage
from asyncbuild.build.supply import Supply
from asyncbuild.image.digest import DiffId, chain_id
from asyncbuild.layers.listing import DamagedListing, Listing


class BaseListings:
    """The listings of one build."""

    def __init__(self, job: Job, supply: Supply, cache: Cache) -> None:
        self._job = job
        self._supply = supply
        self._cache = cache
        self._known: dict[DiffId, Future[Listing | None]] = {}
        self._made: dict[DiffId, Future[None]] = {}
        supply.on_root = self._learn

    def known(self, image: BaseImage) -> Future[Listing | None]:
        """What the image shows, as far as anyone but its layers can tell."""
        chain = chain_of(image)
        if chain not in self._known:
            label = f"listing of {image.reference}"
            self._known[chain] = self._job.ledger.spawn(self._job.nursery, label, self._find, chain)
        return self._known[chain]

    async def fetch_if_unknown(self, image: BaseImage) -> None:
        """Fetch the image's layers, unless its listing will do."""
        if await self.known(image).wait() is None:
            self._supply.root(image)

    def distrust(self, image: BaseImage) -> None:
        """The listing turned out to be wrong: make it anew."""
        self._job.nursery.start_soon(self._make_anew, image)

    async def settle(self) -> None:
        """Return when every listing that is being made is kept."""
        for made in list(self._made.values()):
            with suppress(Exception):  # a listing is a help, no more
                await made.wait()

    async def _find(self, chain: DiffId) -> Listing | None:
        raw = await trio.to_thread.run_sync(self._job.store.listing, chain)
        here = raw is not None
        if raw is None:
            raw = await self._cache.listing(chain)
        if raw is None:
            return None
        try:
            listing = await trio.to_thread.run_sync(Listing.decode, raw)
        except DamagedListing:
            return None
        if here:
            self._cache.export_listing(chain, raw)
        else:
            await trio.to_thread.run_sync(self._job.store.put_listing, chain, raw)
        return listing

    def _learn(self, image: BaseImage, lowers: tuple[Path, ...]) -> None:
        """The image's layers are here, as overlay lower directories."""
        chain = chain_of(image)
        if self._made.get(chain) is None:
            self._made[chain] = self._job.ledger.spawn(
                self._job.nursery, f"list {image.reference}", self._list, chain, lowers
            )

    async def _make_anew(self, image: BaseImage) -> None:
        chain = chain_of(image)
        lowers = await self._supply.root(image).wait()
        await self._keep(chain, lowers, anew=True)

    async def _list(self, chain: DiffId, lowers: tuple[Path, ...]) -> None:
        raw = await trio.to_thread.run_sync(self._job.store.listing, chain)
        if raw is None:
            await self._keep(chain, lowers)

    async def _keep(self, chain: DiffId, lowers: tuple[Path, ...], *, anew: bool = False) -> None:
        raw = await self._job.workers.list_root(lowers)
        await trio.to_thread.run_sync(self._job.store.put_listing, chain, raw)
        self._cache.export_listing(chain, raw, anew=anew)


def chain_of(image: BaseImage) -> DiffId:
    """The ChainID of all layers of an image."""
    chain: DiffId | None = None
    for diff_id in image.config.diff_ids:
        chain = chain_id(chain, diff_id)
    return chain or DiffId.of(b"")
