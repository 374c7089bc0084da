"""The cache that every build has: what its own store remembers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import trio

from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import Absence, Answer, CachedLayer, CachedResult, DamagedResult, Hit
from asyncbuild.image.digest import DiffId
from asyncbuild.store.store import Store


class StoreCache:
    """Results of builds on this machine; a result whose layers are not all here is a miss."""

    name = "this machine"
    trouble = ""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> None:
        """Nothing to fetch."""
        await trio.lowlevel.checkpoint()

    async def look_up(
        self,
        keys: Iterable[Key],
        *,
        quick: bool = False,  # noqa: ARG002 - it is quick anyway
    ) -> Mapping[Key, Answer]:
        """Read the records of ``keys``."""
        return await trio.to_thread.run_sync(self._look_up, tuple(keys))

    async def listing(self, chain: DiffId) -> bytes | None:
        """What was recorded of a base."""
        return await trio.to_thread.run_sync(self._store.listing, chain)

    def remember(self, key: Key, result: CachedResult) -> None:
        """Record a result. Blocks."""
        self._store.put_result(key.hex, result.encode())

    def _look_up(self, keys: tuple[Key, ...]) -> dict[Key, Answer]:
        return {key: self._answer(key) for key in keys}

    def _answer(self, key: Key) -> Answer:
        raw = self._store.result(key.hex)
        if raw is None:
            return Absence.MISS
        try:
            result = CachedResult.decode(raw)
        except DamagedResult:
            return Absence.UNAVAILABLE
        if not all(map(self._is_here, result.layers)):
            return Absence.MISS
        return Hit(key, result, self.name)

    def _is_here(self, layer: CachedLayer) -> bool:
        if layer.tree and self._store.tree(layer.tree) is not None:
            return True
        return layer.descriptor is not None and self._store.has_blob(layer.descriptor.digest)
