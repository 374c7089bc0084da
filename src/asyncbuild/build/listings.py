"""Listings: what COPY and WORKDIR must know of a base, or of cached layers upon it, without any of them.

1. When a base has been unpacked its listing is made by a worker, off every path, and kept in the store
   under the base's ChainID; with a cache to export to, it goes there too.
2. A stage that puts something on a base asks for its listing while the keys are looked up: the store first,
   then all caches at once. What a cache gave is kept in the store.
3. With a cache to export to, a stage's files behind its last RUN (and the WORKDIRs after it) are listed as
   well, under the ChainID of the base and all layers up to there. Who finds these layers in a cache, and
   has no RUN to execute upon them, asks for that listing.
4. Where a RUN follows, what the listing answered is compared with the base once that is here (see
   `asyncbuild.build.guess`); a listing that was wrong is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from asyncbuild.build.caching import Cache
from asyncbuild.build.chain import Chain, image_layer
from asyncbuild.build.futures import Future
from asyncbuild.build.job import Job
from asyncbuild.build.layers import ImageLayer, layer_identity
from asyncbuild.build.resolving import BaseImage
from asyncbuild.build.root import Root, Stack
from asyncbuild.build.supply import Supply
from asyncbuild.cache.results import CachedLayer
from asyncbuild.image.digest import DiffId, chain_id
from asyncbuild.layers.listing import DamagedListing, Listing


class Listings:
    """The listings of one build."""

    def __init__(self, job: Job, supply: Supply, cache: Cache) -> None:
        self._job = job
        self._supply = supply
        self._cache = cache
        self._known: dict[DiffId, Future[Listing | None]] = {}
        self._made: dict[DiffId, Future[None]] = {}
        self._stacks: list[Future[None]] = []
        supply.on_root = self._learn

    def known(self, image: BaseImage) -> Future[Listing | None]:
        """What the image shows, as far as anyone but its layers can tell."""
        return self._ask(chain_of(image), f"listing of {image.reference}", ())

    def stack(self, image: BaseImage | None, above: tuple[CachedLayer, ...]) -> Stack | None:
        """What may be known of the image, or of nothing, and of layers that a look-up gave; None if they
        have no names to ask by.
        """
        diff_ids = [layer.diff_id for layer in above if layer.diff_id is not None]
        if not above or len(diff_ids) < len(above):
            return None
        chain = chain_of(image, diff_ids)
        label = f"listing of {above[-1].name[:20]} and below"
        ask = partial(self._ask, chain, label, above)
        return Stack(
            len(above), partial(self._arrived, image, above), ask, partial(self.distrust, chain)
        )

    def learn_stack(self, image: BaseImage | None, chain: Chain, root: Root) -> None:
        """``root``, which is here or soon made, is the image with ``chain`` upon it."""
        layers = [layer for made in chain if (layer := image_layer(made)) is not None]
        if len(layers) == len(chain):
            self._stacks.append(
                self._job.ledger.spawn(
                    self._job.nursery, "list a stage", self._list_stack, image, layers, root
                )
            )

    async def fetch_if_unknown(self, image: BaseImage) -> None:
        """Fetch the image's layers, unless its listing will do."""
        if await self.known(image).wait() is None:
            self._supply.root(image)

    def distrust(self, chain: DiffId, truth: Root) -> None:
        """The listing of ``chain`` turned out to be wrong: make it anew, from the files themselves."""
        self._job.nursery.start_soon(self._make_anew, chain, truth)

    async def settle(self) -> None:
        """Return when every listing that is being made is kept."""
        for made in [*self._made.values(), *self._stacks]:
            with suppress(Exception):  # a listing is a help, no more
                await made.wait()

    def _ask(
        self, chain: DiffId, label: str, above: tuple[CachedLayer, ...]
    ) -> Future[Listing | None]:
        if chain not in self._known:
            self._known[chain] = self._job.ledger.spawn(
                self._job.nursery, label, self._find, chain, above
            )
        return self._known[chain]

    async def _find(self, chain: DiffId, above: tuple[CachedLayer, ...]) -> Listing | None:
        """The listing of ``chain``; none is asked for if its topmost layers, ``above``, are here."""
        raw = await trio.to_thread.run_sync(self._job.store.listing, chain)
        here = raw is not None
        if raw is None and above and await trio.to_thread.run_sync(self._has_all, above):
            return None
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

    def _arrived(self, image: BaseImage | None, above: tuple[CachedLayer, ...]) -> bool:
        known = image is None or self._supply.has_root(image)
        return known and all(map(self._supply.has_cached, above))

    def _has_all(self, layers: tuple[CachedLayer, ...]) -> bool:
        store = self._job.store
        return all(
            (layer.diff_id is not None and store.layer(layer.diff_id) is not None)
            or (layer.descriptor is not None and store.has_blob(layer.descriptor.digest))
            or (layer.tree and store.tree(layer.tree) is not None)
            for layer in layers
        )

    async def _make_anew(self, chain: DiffId, truth: Root) -> None:
        await self._keep(chain, await truth.lower_directories(), anew=True)

    async def _list(self, chain: DiffId, lowers: tuple[Path, ...]) -> None:
        raw = await trio.to_thread.run_sync(self._job.store.listing, chain)
        if raw is None:
            await self._keep(chain, lowers)

    async def _list_stack(
        self, image: BaseImage | None, layers: list[ImageLayer], root: Root
    ) -> None:
        raw = await self._job.workers.list_root(await root.lower_directories())
        diff_ids = [(await layer_identity(layer))[1] for layer in layers]
        chain = chain_of(image, diff_ids)
        await trio.to_thread.run_sync(self._job.store.put_listing, chain, raw)
        self._cache.export_listing(chain, raw)

    async def _keep(self, chain: DiffId, lowers: tuple[Path, ...], *, anew: bool = False) -> None:
        raw = await self._job.workers.list_root(lowers)
        await trio.to_thread.run_sync(self._job.store.put_listing, chain, raw)
        self._cache.export_listing(chain, raw, anew=anew)


def chain_of(image: BaseImage | None, above: Iterable[DiffId] = ()) -> DiffId:
    """The ChainID of all layers of an image, and of those ``above`` it."""
    chain: DiffId | None = None
    for diff_id in (*(() if image is None else image.config.diff_ids), *above):
        chain = chain_id(chain, diff_id)
    return chain or DiffId.of(b"")
