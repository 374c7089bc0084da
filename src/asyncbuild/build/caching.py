"""The cache of one build: look-ups before anything is executed, and what is remembered of it.

1. All keys are looked up in all sources at once; the last hit of a stage decides where it resumes.
2. A hit brings everything between the base image and its step, so nothing is ever put upon a layer that
   it was not made upon. Linked layers (``--link``) are the exception: they have a key of their own, and
   one that hits behind the last hit is put upon whatever is below it.
3. What a hit promises and cannot keep ends the attempt (`CacheLost`); the build begins again without it.
4. What was executed is remembered in the store when the build ends, whether it failed or not, and is
   exported while the build runs. Exports are optional: their faults are warnings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import trio

from asyncbuild.build.chain import Chain, Made, image_layer
from asyncbuild.build.futures import Future
from asyncbuild.build.job import Job
from asyncbuild.build.layers import BaseLayer, NewLayer, layer_identity
from asyncbuild.build.publish import Destination
from asyncbuild.build.recipes import StepKey
from asyncbuild.cache.keys import Key
from asyncbuild.cache.registry import RegistryCache
from asyncbuild.cache.results import Absence, CachedLayer, CachedResult, Hit
from asyncbuild.cache.source import CacheSource, CacheTarget
from asyncbuild.cache.stored import StoreCache
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.image.reference import Reference
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.records import dataclass, field, replace
from asyncbuild.report.events import WarningRaised


@dataclass(slots=True)
class CachePolicy:
    """What holds for look-ups. ``ttl`` is in seconds; ``distrusted`` names layers that were promised in
    vain (digests, or trees of the store).
    """

    ttl: float
    ask: bool = True
    distrusted: set[str] = field(default_factory=set)

    def accepts(self, result: CachedResult, now: int) -> bool:
        """Whether a result may be used."""
        if result.written is not None and result.written + self.ttl < now:
            return False
        return not any(layer.name in self.distrusted for layer in result.layers)


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """A place that results are exported to: who writes the entries, and where their blobs go.

    Without a destination they are needed in our own store, where ``fetch`` brings what the target lacks.
    """

    target: CacheTarget
    destination: Destination | None
    fetch: Callable[[Descriptor, Reference | None], Awaitable[object]]
    everything: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What the cache has of a stage's steps, by their place: the last step with a result, and the linked
    layers behind it.
    """

    last: tuple[int, Hit] | None = None
    linked: Mapping[int, Hit] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """How many steps need not be executed."""
        return (0 if self.last is None else self.last[0] + 1) + len(self.linked)


class Cache:
    """Look-ups, exports and memories of one attempt at a build."""

    def __init__(
        self,
        job: Job,
        policy: CachePolicy,
        sources: tuple[CacheSource, ...],
        exports: tuple[Export, ...],
    ) -> None:
        self._job = job
        self._policy = policy
        self._own = StoreCache(job.store)
        self._sources = (self._own, *sources)
        self._exports = exports
        self._chains: dict[int, Chain] = {}
        self._pending: list[Future[None]] = []
        self._refreshed: list[Future[None]] = []
        self._warned: set[str] = set()
        self._loaded = [
            job.ledger.spawn(job.nursery, f"load {source.name}", source.load)
            for source in self._sources
            if policy.ask
        ]
        self.asks = policy.ask and (bool(sources) or job.store.has_results())

    @property
    def packs_everything(self) -> bool:
        """Whether layers of all stages are exported, not only those of the image."""
        return any(export.everything for export in self._exports)

    def exports(self, *, published: bool) -> bool:
        """Whether results of a stage are exported: of one whose layers are in the image, or of another."""
        return any(published or export.everything for export in self._exports)

    async def find(self, keys: Iterable[Key], *, quick: bool = False) -> Mapping[Key, Hit]:
        """The hits among ``keys``; where several sources have one, the first of them."""
        wanted = tuple(dict.fromkeys(keys))
        if not self.asks or not wanted:
            return {}
        answers: dict[str, Mapping[Key, Hit | Absence]] = {}

        async def ask(source: CacheSource) -> None:
            answers[source.name] = await source.look_up(wanted, quick=quick)

        async with trio.open_nursery() as nursery:
            for source in self._sources:
                nursery.start_soon(ask, source)
        hits: dict[Key, Hit] = {}
        for source in reversed(self._sources):
            for key, answer in answers[source.name].items():
                if isinstance(answer, Hit) and self._policy.accepts(
                    answer.result, self._job.started
                ):
                    hits[key] = answer
                elif answer is Absence.UNAVAILABLE:
                    why = f": {source.trouble}" if source.trouble else ""
                    text = f"cache {source.name} does not answer for some steps{why}"
                    self._warn(source.name, text)
        return hits

    async def ask(self, keys: tuple[StepKey, ...], *, packed: bool, quick: bool = False) -> Found:
        """What can be used of the results of ``keys``, in one wave; ``packed`` asks for layers."""
        names = [name for item in keys if item.asked for name in (item.key, item.linked_key)]
        hits = await self.find([name for name in names if name is not None], quick=quick)

        def usable(key: Key | None) -> Hit | None:
            hit = None if key is None else hits.get(key)
            return hit if hit is not None and (hit.result.packed or not packed) else None

        last: tuple[int, Hit] | None = None
        linked: dict[int, Hit] = {}
        for place, item in enumerate(keys):
            if (hit := usable(item.key)) is not None:
                last, linked = (place, hit), {}
            elif (hit := usable(item.linked_key)) is not None and not hit.result.below:
                linked[place] = hit
        return Found(last, linked)

    async def config(self, digest: Digest, patience: float) -> bytes | None:
        """The configuration of a base, if the index of a cache in a registry holds it and comes within
        ``patience`` seconds. The digest vouches for it, not the cache.
        """
        if not self._policy.ask:
            return None
        with trio.move_on_after(patience):
            for source in self._sources:
                if isinstance(source, RegistryCache):
                    raw = await source.config(digest)
                    if raw is not None and digest.matches(raw):
                        return raw
        return None

    def note_config(self, raw: bytes) -> None:
        """The configuration of a base of this build: exported beside what is made upon it."""
        for export in self._exports:
            if isinstance(export.target, RegistryCache):
                export.target.note_config(raw)

    async def listing(self, chain: DiffId) -> bytes | None:
        """The listing of a base, from whichever source has it; all are asked at once."""
        found: list[bytes] = []

        async def ask(source: CacheSource) -> None:
            raw = await source.listing(chain)
            if raw is not None:
                found.append(raw)

        if self._policy.ask:
            async with trio.open_nursery() as nursery:
                for source in self._sources:
                    nursery.start_soon(ask, source)
        return found[0] if found else None

    def export_listing(self, chain: DiffId, raw: bytes, *, anew: bool = False) -> None:
        """Export a base's listing where it is not yet; ``anew``: what is there is wrong."""
        for export in self._exports:
            label = f"export listing to {export.target.name}"
            put = partial(
                export.target.put_listing, chain, raw, anew=anew, written=self._job.started
            )
            self._pending.append(self._job.ledger.spawn(self._job.nursery, label, put))

    def made(self, stage: int, chain: Chain, *, published: bool) -> None:
        """Take note of what stage ``stage`` has made so far; export its last piece."""
        self._chains[stage] = chain
        last = chain[-1]
        if not last.kept or (last.layer is None and last.cached is None):
            return
        for export in self._exports:
            if published or export.everything:
                self._pending.append(
                    self._job.ledger.spawn(
                        self._job.nursery,
                        f"export to {export.target.name}",
                        self._export,
                        export,
                        chain,
                    )
                )

    def refresh(self) -> None:
        """The image's layers have arrived: read the indexes that will be merged, while it is tagged."""
        new = any(made.cached is None for chain in self._chains.values() for made in chain)
        if self._refreshed or not new:
            return
        for export in self._exports:
            if isinstance(export.target, RegistryCache):
                label = f"read the index of {export.target.name}"
                refreshed = self._job.ledger.spawn(self._job.nursery, label, export.target.refresh)
                self._refreshed.append(refreshed)

    async def finish(self, seconds: float) -> None:
        """Wait for exports, at most ``seconds``, and write the indexes; faults are warnings."""
        if not self._exports:
            return
        with trio.move_on_after(seconds) as scope:
            for pending in [*self._pending, *self._refreshed]:
                await self._tolerate(pending.wait)
            for export in self._exports:
                await self._tolerate(export.target.finish)
        if scope.cancelled_caught:
            self._warn(
                "late", f"the cache export took longer than {seconds:.0f} s and was given up"
            )

    def remember(self) -> None:
        """Record in the store what this attempt made. Blocks; called when nothing runs any more."""
        settled: dict[Made, CachedLayer | None] = {}
        for chain in self._chains.values():
            below: list[CachedLayer] = []
            for made in chain:
                if made not in settled:
                    settled[made] = made.cached or self._settle(made)
                layer = settled[made]
                if layer is None:
                    break
                result = CachedResult(layer, tuple(below), *self._times(made), made.step)
                for key in made.keys:
                    self._own.remember(key, result)
                if made.linked is not None:
                    self._own.remember(made.linked, replace(result, below=()))
                below.append(layer)

    def _times(self, made: Made) -> tuple[int, int | None]:
        """When something was made for the image, and by the clock."""
        if made.cached is None:
            return self._job.created, self._job.started
        return made.created or self._job.created, made.written

    def _settle(self, made: Made) -> CachedLayer | None:
        """Keep what a step made: as a layer if it was packed, as a tree if not. What was packed but for
        some of it is kept as both: the layer is the image's, and the tree is what later steps see.
        """
        if not made.steady():
            return None
        work = made.work()
        layer = made.layer
        kept = CachedLayer()
        if isinstance(layer, NewLayer) and layer.packed.done and not layer.packed.failed:
            packed = layer.packed.value_nowait()
            kept = CachedLayer(packed.descriptor, packed.diff_id)
            if work is not None and layer.whole:
                self._job.store.commit_layer(self._bare(work), packed.diff_id, UnpackedFacts())
                return kept
        if work is None or not made.keys:
            return kept if kept.packed else None
        self._job.store.commit_tree(self._bare(work), made.keys[0].hex)
        return replace(kept, tree=made.keys[0].hex)

    def _bare(self, work: Path) -> Path:
        """A work directory with the ``fs/`` of another one, and nothing else."""
        bare = self._job.store.new_work("keep")
        (work / "fs").rename(bare / "fs")
        return bare

    async def _export(self, export: Export, chain: Chain) -> None:
        layers = [image_layer(made) for made in chain]
        if any(layer is None for layer in layers) or not chain[-1].keys:
            return
        whole = [layer for layer in layers if layer is not None]
        if export.destination is not None:
            for layer in whole:
                export.destination.send(layer)
            for layer in whole:
                await export.destination.arrival(layer).wait()
        else:
            for layer in whole:
                if isinstance(layer, BaseLayer):
                    await export.fetch(layer.descriptor, layer.origin)
        named = [CachedLayer(*await layer_identity(layer)) for layer in whole]
        if not all(made.steady() for made in chain):
            return
        last = chain[-1]
        result = CachedResult(named[-1], tuple(named[:-1]), *self._times(last), last.step)
        await export.target.put(chain[-1].keys, result)
        if chain[-1].linked is not None:
            await export.target.put((chain[-1].linked,), replace(result, below=()))

    async def _tolerate(self, work: Callable[[], object]) -> None:
        try:
            await work()  # type: ignore[misc]
        except AsyncbuildError as error:
            self._warn("export", f"the cache could not be exported: {error.message}")

    def _warn(self, topic: str, text: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            self._job.reporter.emit(WarningRaised(text))
