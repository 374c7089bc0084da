"""The session: one build's nursery, and the futures of everything that happens in it.

Stages are started when someone needs them, so a stage that only an ONBUILD of a base refers to needs
no plan of its own. What a stage of the image's own line makes (the target, what it is FROM, and so on)
goes to the destinations; other stages are only looked into by COPY --from, and are never packed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from asyncbuild.build.backend_choice import BackendChoice
from asyncbuild.build.caching import CachePolicy
from asyncbuild.build.exports import make_cache
from asyncbuild.build.futures import Future
from asyncbuild.build.glimpses import Glimpses
from asyncbuild.build.job import Job
from asyncbuild.build.kept_mounts import KeptMounts
from asyncbuild.build.layers import BaseLayer, ImageLayer, NewLayer
from asyncbuild.build.listings import Listings
from asyncbuild.build.outline import OutlinedStep, StageOutline, listed_steps
from asyncbuild.build.packing import Packer, Reading
from asyncbuild.build.publish import Destination
from asyncbuild.build.recipes import StageKeys
from asyncbuild.build.remotes import Remotes, fetch_tools
from asyncbuild.build.request import BuildRequest
from asyncbuild.build.resolving import Resolver
from asyncbuild.build.stage import StageState
from asyncbuild.build.stage_files import find_in_root
from asyncbuild.build.supply import Supply
from asyncbuild.build.warmed import warmed_images
from asyncbuild.cache.results import CachedLayer
from asyncbuild.context.directory import DirectoryContext, open_context
from asyncbuild.context.fingerprint import ContentDigests
from asyncbuild.context.sources import CopySource
from asyncbuild.dockerfile.instructions import Add, Copy, Run
from asyncbuild.errors import AsyncbuildError, StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.layers.trim import Trim
from asyncbuild.plan.contexts import LAYOUT_HOST, NamedContexts
from asyncbuild.plan.nouns import ContextRef, ImageRef, Need, Plan, PlanStage, StageRef
from asyncbuild.records import dataclass
from asyncbuild.registry.upload import UploadSession
from asyncbuild.report.events import Event, Outcome, WarningRaised
from asyncbuild.rootfs.isolation import Isolation

T = TypeVar("T")
_MOST_RESERVED = 16
_PACKING_SECONDS = 60.0
"""How long a build that has failed waits for layers that are being packed."""

UploadSessions = tuple[Future[UploadSession], ...]
"""One at each destination, in their order."""


@dataclass(frozen=True, slots=True)
class StageWork:
    """What is done for each stage, and the policy of look-ups."""

    outline: Callable[[Session, int], Awaitable[StageOutline]]
    keys: Callable[[Session, int], Awaitable[StageKeys]]
    execute: Callable[[Session, int], Awaitable[StageState]]
    policy: CachePolicy


class Session:
    """Everything that the executor of a stage may ask for."""

    def __init__(self, job: Job, request: BuildRequest, plan: Plan, work: StageWork) -> None:
        self.job = job
        self.request = request
        self.plan = plan
        layouts = NamedContexts.parse(plan.contexts).layouts
        keep = bool(request.outputs) or _leaves_home(request, plan)
        warmed = warmed_images(job, request.cache_dir, request.cache_ttl)
        resolver = Resolver(
            job,
            layouts=layouts,
            warmed=warmed,
            gate=request.gate,
            verification=request.verification,
        )
        self._resolver = resolver
        self.supply = Supply(job, resolver=resolver, keep_blobs=keep, warmed=warmed)
        newest = request.created if request.clamp_times else None
        trim = Trim.of(request.ignored_paths, newest)
        self.packer = Packer(job, request.compression, trim, self.reading)
        self.destinations = _destinations(job, self.supply, request.destinations)
        self.cache = make_cache(job, self.supply, self.destinations, request, work.policy)
        resolver.remembered, resolver.on_config = self.cache.config, self.cache.note_config
        self.listings = Listings(job, self.supply, self.cache)
        self.glimpses = Glimpses(job, self.supply)
        self.context: Future[DirectoryContext] = job.ledger.spawn(
            job.nursery, "context", self._open_context
        )
        self.remotes = Remotes(job, fetch_tools(job, request))
        self.kept_mounts = KeptMounts(job, request.cache_mounts_from, request.cache_mounts_to)
        fresh = partial(job.store.new_work, "contents")
        self.contents = ContentDigests(job.store.root / "contents", fresh)
        self.backends = BackendChoice(job, request.run)
        self._root_turn = trio.Lock()
        self.on_end: Callable[[int, StageState], None] = lambda *_: None
        """Told how a stage will end unless a guess about its base is found wrong."""
        job.closing.push_async_callback(self.backends.aclose)
        self.steps_executed = 0
        self.steps_cached = 0
        self._fails = False
        self._work = work
        self._reading = trio.CapacityLimiter(1)
        self._flights: dict[Hashable, Future[Any]] = {}
        self._published = plan.line
        self._reserved: deque[UploadSessions] = deque()
        self._existing: dict[Digest, BaseLayer] = {}

    def outline(self, index: int) -> Future[StageOutline]:
        """What every step of stage ``index`` means."""
        return self._flight("outline of stage", index, self._work.outline)

    def keys(self, index: int) -> Future[StageKeys]:
        """The cache keys of stage ``index``."""
        return self._flight("keys of stage", index, self._work.keys)

    def keys_if_known(self, index: int) -> StageKeys | None:
        """The keys of a stage, if they were asked for and made."""
        future = self._flights.get(("keys of stage", index))
        if future is None or not future.done or future.failed:
            return None
        keys: StageKeys = future.value_nowait()
        return keys

    def stage(self, index: int) -> Future[StageState]:
        """How stage ``index`` ends; starts it if nobody has yet. Its failure ends the build at once."""
        known = ("stage", index) in self._flights
        future: Future[StageState] = self._flight("stage", index, self._work.execute)
        if not known:
            self.job.nursery.start_soon(future.wait)
        return future

    def _flight(
        self, what: str, index: int, work: Callable[[Session, int], Awaitable[T]]
    ) -> Future[T]:
        label = f"{what} {self.plan.all_stages[index].label}"
        return self.once((what, index), label, work, self, index)

    def once(
        self, key: Hashable, label: str, work: Callable[..., Awaitable[T]], *args: Any
    ) -> Future[T]:
        """The only flight of ``key``, started when it is first asked for."""
        if key not in self._flights:
            self._flights[key] = self.job.ledger.spawn(self.job.nursery, label, work, *args)
        return self._flights[key]

    def tell(self, event: Event) -> None:
        """Report an event."""
        self.job.reporter.emit(event)

    def count(self, outcome: Outcome) -> None:
        """Count a step for the statistics."""
        if outcome is Outcome.CACHED:
            self.steps_cached += 1
        else:
            self.steps_executed += 1

    def asks(self, stage: PlanStage) -> bool:
        """Whether the cache is asked for the steps of ``stage``."""
        filtered = self.request.no_cache_filter
        named = stage.label.lower() in filtered or str(stage.index) in filtered
        return self.cache.asks and not named

    def remember(self) -> None:
        """Record what was made and which contents were read. Blocks; a full store forgets it."""
        with suppress(StoreError, OSError):
            self.cache.remember()
            self.contents.save()

    async def failing(self) -> None:
        """A stage has failed: return when what the steps before made is packed, kept and exported.

        That takes as long as packing does, and at most the patience for exports. Later failures are of
        no interest: who brings one waits here for the end.
        """
        if self._fails:
            await trio.sleep_forever()
        self._fails = True
        with trio.move_on_after(_PACKING_SECONDS):
            await self.packer.settle()
            await self.listings.settle()
        await self.cache.finish(self.request.cache_patience)

    async def goes_on(self) -> None:
        """Return at once; never, if the build only waits for its end."""
        if self._fails:
            await trio.sleep_forever()

    @asynccontextmanager
    async def turn(self, rest: Sequence[OutlinedStep]) -> AsyncIterator[None]:
        """A stage's turn to execute the ``rest`` of its steps: at once, but that in place those with a RUN
        have ``/`` one after another. Who has it waits for no other stage, so what is needed comes first.
        """
        runs = any(isinstance(step.instruction, Run) for step in rest)
        if not runs or self.request.run.isolation is not Isolation.INPLACE:
            yield
            return
        for step in rest:
            for source in step.step.sources:
                if isinstance(source, StageRef):
                    await self.stage(source.index).wait()
        async with self._root_turn:
            # a RUN in place replaces the program git: what it fetches is here by then
            outlines = [await self.outline(index).wait() for index in self.plan.needed]
            await self.remotes.settle_git(step for outline in outlines for step in outline.steps)
            yield

    async def read_contents(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run something that uses ``contents`` in a thread, one at a time."""
        async with self._reading:
            return await trio.to_thread.run_sync(partial(work, *arguments))

    @asynccontextmanager
    async def reading(self, changes: ChangeSet) -> AsyncIterator[None]:
        """Around what reads the files of ``changes``: one that has changed since it was first looked at
        makes the step's result of no use to other builds.
        """
        await self.read_contents(self.contents.note, changes)
        yield
        changed = await self.read_contents(self.contents.check, changes)
        if changed:
            more = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
            text = (
                f"{changed[0]}{more} changed while the build read it: the step will not be cached"
            )
            self.tell(WarningRaised(text))

    def prefetch(self, step: OutlinedStep) -> None:
        """Start what ``step`` will ask for: stages, and files of images."""
        if isinstance(step.instruction, Add):
            self.remotes.start(step.instruction)
        for source in step.step.sources:
            match source:
                case StageRef(index):
                    self.stage(index)
                    if isinstance(step.instruction, Copy):
                        self.stage_files(index, step.instruction)
                case ContextRef():
                    self.remotes.context(source)
                case ImageRef() as image if isinstance(step.instruction, Copy):
                    self.job.nursery.start_soon(
                        self._prefetch_files, image, step.instruction.sources
                    )
                case ImageRef() as image:  # a RUN's mount shows all of it
                    self.job.nursery.start_soon(self._prefetch_root, image)

    def stage_files(self, index: int, copy: Copy) -> Future[list[CopySource]]:
        """What a COPY takes of stage ``index``, looked for as soon as that stage is done."""
        label = f"files {copy.sources} but {copy.excludes}, parents {copy.parents}, of stage"

        async def find(session: Session, index: int) -> list[CopySource]:
            return await find_in_root((await session.stage(index).wait()).root, copy)

        return self._flight(label, index, find)

    async def _prefetch_files(self, image: ImageRef, paths: tuple[str, ...]) -> None:
        """Speculative: an error is raised where the files are asked for."""
        with suppress(AsyncbuildError):
            base = await self.supply.image(image.reference, image.platform).wait()
            await self.supply.files(base, paths).wait()

    async def _prefetch_root(self, image: ImageRef) -> None:
        """Speculative, as `_prefetch_files`."""
        with suppress(AsyncbuildError):
            base = await self.supply.image(image.reference, image.platform).wait()
            await self.supply.root(base).wait()

    def publishes(self, index: int) -> bool:
        """Whether the layers of stage ``index`` are layers of the image."""
        return index in self._published and not self.request.squash

    def looks_inside(self, outline: StageOutline) -> Need:
        """What will be wanted of the files of this stage's base; names of users are facts here."""
        own = max((step.step.need for step in outline.steps), default=Need.NOTHING)
        if any(isinstance(step.instruction, Run) for step in outline.steps):
            own = Need.ROOT
        elif own is Need.ROOT:
            own = Need.FACTS
        return max(own, self.plan.users_need(outline.stage.index))

    def lists(self, outline: StageOutline, done: int) -> bool:
        """Whether a listing of the stage behind its first ``done`` steps would help another build: it is
        what that would ask for, the layers are exported as they are on disk, and files are put upon them or
        taken of them.
        """
        index, steps = outline.stage.index, outline.file_steps
        others = [stage for stage in self.plan.stages if stage.index != index]
        used = any(
            stage.base == StageRef(index) or any(StageRef(index) in s.sources for s in stage.steps)
            for stage in others
        )
        request = self.request
        trims = request.clamp_times or request.ignored_paths or request.volumes_are_lost
        exported = self.cache.exports(published=self.publishes(index))
        wanted = done == listed_steps(steps) and (done < len(steps) or used)
        return exported and not trims and wanted

    def existing(self, layer: CachedLayer, *, base: bool = False) -> BaseLayer:
        """A layer of the base image, or one that a look-up gave: one object for each digest."""
        assert layer.descriptor is not None
        assert layer.diff_id is not None
        digest = layer.descriptor.digest
        if digest not in self._existing:
            cached = None if base else layer
            self._existing[digest] = BaseLayer(
                layer.descriptor, layer.diff_id, layer.origin, cached
            )
        return self._existing[digest]

    def reserve_uploads(self, count: int) -> None:
        """Begin uploads for ``count`` layers that will be made: a round trip less when they are."""
        for _ in range(min(count, _MOST_RESERVED)):
            self._reserved.append(self._begin_uploads())

    def open_uploads(self) -> UploadSessions:
        """An upload at every destination for a layer that is about to be made."""
        return self._reserved.popleft() if self._reserved else self._begin_uploads()

    def _begin_uploads(self) -> UploadSessions:
        return tuple(destination.open_session() for destination in self.destinations)

    def publish(self, layer: ImageLayer, uploads: UploadSessions = ()) -> None:
        """Send ``layer`` to every destination."""
        waiting = uploads or (None,) * len(self.destinations)
        for destination, upload in zip(self.destinations, waiting, strict=True):
            destination.send(layer, upload)

    def withdraw(self, layer: NewLayer) -> None:
        """Send ``layer`` no further: it is in no image after all."""
        for destination in self.destinations:
            destination.withdraw(layer)

    def begins(self) -> None:
        """It is a build: what comes of an image is fetched and sent on before it is asked for."""
        self._resolver.on_manifest = self._begin_early

    def _begin_early(self, reference: Reference, platform: Platform, manifest: Manifest) -> None:
        """What an image's layers are for is in the plan: begin before its configuration has come."""
        if reference.registry == LAYOUT_HOST:
            return
        self._publish_early(reference, platform, manifest)
        if not self.cache.asks and any(
            stage.base == ImageRef(reference, platform) and _looks(stage)
            for stage in self.plan.stages
        ):
            self.supply.fetch_early(reference, manifest)

    def _publish_early(self, reference: Reference, platform: Platform, manifest: Manifest) -> None:
        """Send the layers of the image's own base, which are in the image whatever is executed or cached:
        they are mounted while the configuration is on its way.
        """
        lowest = min(self._published)
        named = self.plan.all_stages[lowest].base == ImageRef(reference, platform)
        if named and self.publishes(lowest):
            for descriptor in manifest.layers:
                self.publish(BaseLayer(descriptor, None, reference))

    def materialise(self, changes: ChangeSet) -> Written:
        """``changes`` as a directory, written when it is first asked for."""
        return Written(self.job, changes, self.reading)

    async def _open_context(self) -> DirectoryContext:
        request = self.request
        if request.context_is_remote:
            opened = partial(DirectoryContext, request.context, owned=True)
            return await trio.to_thread.run_sync(opened)
        return await trio.to_thread.run_sync(open_context, request.context, request.dockerfile_path)


class Written:
    """A change set that becomes a directory when someone needs one."""

    def __init__(self, job: Job, changes: ChangeSet, reading: Reading) -> None:
        self._job = job
        self._changes = changes
        self._reading = reading
        self._made: Future[Path] | None = None

    def directory(self) -> Future[Path]:
        """The directory, in overlay lower format."""
        if self._made is None:
            self._made = self._job.ledger.spawn(
                self._job.nursery, "write a change set", self._write
            )
        return self._made

    def work(self) -> Path | None:
        """The work directory that has it in ``fs/``, if it was written whole."""
        if self._made is None or not self._made.done or self._made.failed:
            return None
        return self._made.value_nowait().parent

    async def _write(self) -> Path:
        work = await trio.to_thread.run_sync(self._job.store.new_work, "copy", "fs")
        async with self._reading(self._changes):
            await self._job.workers.materialise(self._changes, work / "fs")
        return work / "fs"


def _looks(stage: PlanStage) -> bool:
    """Whether a stage looks at the files of its base. Who has no configuration of an image and asks no
    cache has hardly a listing of it.
    """
    return any(step.need >= Need.FACTS for step in stage.steps)


def _leaves_home(request: BuildRequest, plan: Plan) -> bool:
    """Whether the base's layers may have to be sent to a registry that they are not in."""
    bases = [plan.all_stages[index].base for index in plan.line]
    images = [request.gate.image(base.reference) for base in bases if isinstance(base, ImageRef)]
    homes = {image.registry for image in images}
    return bool(homes) and any(item.registry not in homes for item in request.destinations)


def _destinations(
    job: Job, supply: Supply, references: tuple[Reference, ...]
) -> tuple[Destination, ...]:
    """One destination for each repository; the first of a registry is the others' source."""
    repositories: dict[str, list[Reference]] = {}
    for reference in references:
        repositories.setdefault(reference.name, []).append(reference)
    primary: dict[str, Destination] = {}
    made = []
    for tags in repositories.values():
        destination = Destination(job, supply, tuple(tags), primary.get(tags[0].registry))
        primary.setdefault(destination.registry, destination)
        made.append(destination)
    return tuple(made)
