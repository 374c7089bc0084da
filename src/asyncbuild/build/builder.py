"""One build, from a request to a pushed image.

`build_image` is the outer edge: it opens what must be closed, runs the session in one nursery, and turns
the nursery's exception group into the one error that a person should see.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio

from asyncbuild.build.answers import StageAnswer, ask_cache, remember_recipes
from asyncbuild.build.caching import CachePolicy
from asyncbuild.build.checking import check_late, tell_notices
from asyncbuild.build.dialling import dial_ahead
from asyncbuild.build.entitlements import check_plan_entitlements
from asyncbuild.build.executor import execute_stage
from asyncbuild.build.futures import Ledger
from asyncbuild.build.gate import check_plan_sources
from asyncbuild.build.isolation import check_plan_isolation
from asyncbuild.build.job import Job, time_text
from asyncbuild.build.keeping import keep_unpushed
from asyncbuild.build.keys import read_ahead, stage_keys
from asyncbuild.build.layers import BaseLayer, layer_identity
from asyncbuild.build.outcome import one_error
from asyncbuild.build.outlines import outline_of
from asyncbuild.build.request import BuildRequest, BuildResult
from asyncbuild.build.session import Session, StageWork, UploadSessions
from asyncbuild.build.squash import squashed
from asyncbuild.build.stage import StageState
from asyncbuild.build.workers import WorkerPool
from asyncbuild.cache.inline import encode_inline
from asyncbuild.cache.results import CacheLost
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import StoreError
from asyncbuild.image.config import HistoryEntry, ImageConfig
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    is_docker,
    to_docker,
    to_oci,
)
from asyncbuild.layers.records import store_form
from asyncbuild.output.built import BuiltImage
from asyncbuild.output.write import write_output
from asyncbuild.plan.contexts import LAYOUT_HOST, NamedContexts
from asyncbuild.plan.nouns import Plan
from asyncbuild.plan.planner import PlanRequest, make_plan
from asyncbuild.plan.remotes import check_plan_remotes
from asyncbuild.records import dataclass, replace
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.report.events import (
    BuildFinished,
    BuildStarted,
    OutputWritten,
    Reporter,
    Statistics,
    WarningRaised,
)
from asyncbuild.store.store import Store

_ATTEMPTS = 3
_ABANDON_SECONDS = 6.0
_SWEEP_SECONDS = 0.3
"""How long a build that is done may go on removing what it used; the rest is the next build's."""


def plan_build(request: BuildRequest) -> Plan:
    """Parse the Dockerfile and plan; raises DockerfileError for what is wrong or not supported."""
    dockerfile = parse_dockerfile(request.dockerfile, str(request.dockerfile_path))
    plan = make_plan(
        dockerfile,
        PlanRequest(
            platform=request.platform,
            build_platform=request.build_platform,
            build_args=request.build_args,
            target=request.target,
            contexts=NamedContexts.parse(request.contexts),
        ),
    )
    check_plan_remotes(plan)
    check_plan_entitlements(plan, request.run.allow)
    own = {"context": str(request.context)}
    if request.context is None or request.context_is_remote:
        own = {}  # judged when it was fetched
    check_plan_sources(plan, {**own, **request.contexts}, request.gate)
    return plan


async def build_image(
    request: BuildRequest,
    registries: RegistrySettings,
    reporter: Reporter,
    *,
    ledger: Ledger | None = None,
    workers: WorkerPool | None = None,
) -> BuildResult:
    """Build what ``request`` asks for, push it and write it; with the caller's ``workers`` if given.

    Raises one AsyncbuildError for whatever goes wrong. When this returns or raises, nothing is left
    running or mounted, the store holds only what is complete, and every promise in ``ledger`` (one of
    the caller's, to look into) is settled.
    """
    with one_error():
        seen = Surroundings(reporter, ledger or Ledger(), workers)
        return await _build(request, registries, seen)


async def _build(
    request: BuildRequest, settings: RegistrySettings, seen: Surroundings
) -> BuildResult:
    reporter = seen.reporter
    started = trio.current_time()
    plan = plan_build(request)
    check_plan_isolation(plan, request.run.isolation)
    tell_notices(plan, reporter)
    steps = sum(len(stage.steps) for stage in plan.stages)
    names = tuple(dict.fromkeys(str(name) for name in request.all_names))
    reporter.emit(BuildStarted(names, len(plan.stages), steps))
    result = await _with_trust(
        CachePolicy(request.cache_ttl, request.use_cache),
        partial(_attempt, request, settings, plan, seen),
        reporter,
    )
    statistics = replace(result.statistics, seconds=trio.current_time() - started)
    reporter.emit(BuildFinished(result.manifest.digest, statistics))
    return replace(result, statistics=statistics)


async def _with_trust(
    policy: CachePolicy,
    attempt: Callable[[CachePolicy], Awaitable[BuildResult]],
    reporter: Reporter,
) -> BuildResult:
    """Attempt the build; where a cache promised what it could not keep, again without that."""
    for _ in range(_ATTEMPTS):
        try:
            with one_error():
                return await attempt(policy)
        except CacheLost as lost:
            policy.distrusted.add(lost.layer.name)
            reporter.emit(WarningRaised(f"{lost.message}; building again without it"))
    policy.ask = False
    return await attempt(policy)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Who sees what happens in a build (the reporter, the ledger of its promises), and the workers of a
    caller that keeps some for several builds.
    """

    reporter: Reporter
    ledger: Ledger
    workers: WorkerPool | None = None


async def _attempt(
    request: BuildRequest,
    settings: RegistrySettings,
    plan: Plan,
    seen: Surroundings,
    policy: CachePolicy,
) -> BuildResult:
    async with _open_session(request, settings, plan, seen, policy) as session:
        session.job.closing.push_async_callback(_remember, session)
        result = await _run(session)
    return replace(result, statistics=_statistics(session))


@asynccontextmanager
async def _open_session(
    request: BuildRequest,
    settings: RegistrySettings,
    plan: Plan,
    seen: Surroundings,
    policy: CachePolicy,
) -> AsyncIterator[Session]:
    """A session with everything it needs; when the body ends, so does all that still runs in it."""
    async with AsyncExitStack() as stack:
        told = replace(settings, on_notice=lambda text: seen.reporter.emit(WarningRaised(text)))
        registries = await stack.enter_async_context(Registries(told))
        opened = partial(Store.open, request.store, form=store_form())
        store = stack.enter_context(await trio.to_thread.run_sync(opened))
        size = request.workers or max(2, os.cpu_count() or 2)
        workers = seen.workers
        if workers is None:
            workers = await stack.enter_async_context(WorkerPool(size + 1, request.limits))
        closing = await stack.enter_async_context(AsyncExitStack())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_sweep, store, None)
            job = Job(
                nursery,
                seen.ledger,
                registries,
                store,
                workers,
                seen.reporter,
                request.created,
                closing,
                size,
                int(time.time()) if request.now is None else request.now,
            )
            work = StageWork(outline_of, stage_keys, execute_stage, policy)
            yield Session(job, request, plan, work)
            nursery.cancel_scope.cancel()
    await _sweep(store, _SWEEP_SECONDS)


async def ask_image_cache(
    request: BuildRequest, settings: RegistrySettings, reporter: Reporter
) -> tuple[StageAnswer, ...]:
    """What the cache would answer to a build of ``request``; nothing is executed or written."""
    plan = plan_build(request)
    policy = CachePolicy(request.cache_ttl, request.use_cache)
    seen = Surroundings(reporter, Ledger())
    with one_error():
        async with _open_session(request, settings, plan, seen, policy) as session:
            return await ask_cache(session)


async def _run(session: Session) -> BuildResult:
    """The main line: everything is started, then the image is what the target's stage ends with."""
    plan = session.plan
    session.begins()
    dial_ahead(session)
    for planned in plan.images:
        if planned.image.reference.registry == LAYOUT_HOST:
            continue
        reference = session.request.gate.image(planned.image.reference)
        session.job.registries.client(reference.registry).expect(reference.repository, "pull")
    for planned in plan.images:
        session.supply.image(planned.image.reference, planned.image.platform)
    read_ahead(session)
    for index in plan.needed:
        session.keys(index)
        if not session.cache.asks:
            session.stage(index)  # all of them will be needed
    checks = session.job.ledger.spawn(session.job.nursery, "build checks", check_late, session)
    configs = session.open_uploads()
    for opened in configs:
        session.job.nursery.start_soon(opened.wait)  # no right to push ends the build at once
    session.on_end = partial(_foresee_end, session, configs)
    try:
        state = await session.stage(plan.target).wait()
        await checks.wait()
        if session.request.squash:
            state = await squashed(session, state)
        image = await _image(session, state)
        await trio.to_thread.run_sync(session.job.store.put_blob, image.config)
        await trio.to_thread.run_sync(session.job.store.put_blob, image.manifest.raw)
        async with trio.open_nursery() as nursery:
            for destination, upload in zip(session.destinations, configs, strict=True):
                finish = partial(
                    destination.finish,
                    keep_immutable=session.request.keep_immutable_tags,
                    on_arrival=session.cache.refresh,
                )
                nursery.start_soon(finish, image.config, upload, image.manifest)
        await _write_outputs(session, state, image)
        await session.listings.settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.cache.finish, session.request.cache_patience)
            nursery.start_soon(session.kept_mounts.finish, session.request.cache_patience)
        await keep_unpushed(session, state, image)
    finally:
        await _abandon_uploads(session)
    config = ImageConfig.parse(image.config)
    return BuildResult(image.manifest, config, session.request.destinations, Statistics())


def _foresee_end(session: Session, uploads: UploadSessions, index: int, state: StageState) -> None:
    """Send the configuration of an image that will be what the target's stage is about to end with."""

    async def send() -> None:
        image = await _image(session, state)
        for destination, upload in zip(session.destinations, uploads, strict=True):
            destination.bring_config(image.config, upload)

    if index == session.plan.target and not session.request.squash:
        session.job.ledger.spawn(session.job.nursery, "configuration", send)


async def _remember(session: Session) -> None:
    """Record what was made, when nothing runs any more; a store that is full forgets it."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(session.remember)
        with suppress(StoreError):
            await trio.to_thread.run_sync(remember_recipes, session)


async def _image(session: Session, state: StageState) -> BuiltImage:
    """The configuration and the manifest, once every layer's names are known."""
    request = session.request
    layers = [await layer_identity(layer) for layer in state.layers]
    runtime = state.image.runtime
    created = _created(session, state)
    if request.labels:
        runtime = replace(runtime, labels={**runtime.labels, **request.labels})
    config = ImageConfig(
        platform=state.image.platform,
        runtime=runtime,
        diff_ids=tuple(diff_id for _, diff_id in layers),
        history=_dated(session, state.image.history, created),
        created=created,
        author=state.image.author,
        extra=_inline_cache(session, state),
    )
    raw = config.encode()
    docker = request.docker_media_types
    if docker is None:
        docker = _inherits_docker(item.media_type for item, _ in layers)
    named = to_docker if docker else to_oci
    manifest = Manifest.make(
        Descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, Digest.of(raw), len(raw)),
        tuple(replace(item, media_type=named(item.media_type)) for item, _ in layers),
        media_type=DOCKER_MANIFEST if docker else OCI_MANIFEST,
        annotations=request.annotations,
    )
    return BuiltImage(manifest, raw, config.platform, request.all_names, config.created)


def _inherits_docker(layer_types: Iterable[str]) -> bool:
    """Whether an image of these layers becomes docker's: its base is, and docker has types for all."""
    types = set(layer_types)
    return any(map(is_docker, types)) and all(is_docker(to_docker(item)) for item in types)


def _created(session: Session, state: StageState) -> str:
    """When the image was made: when the youngest of its layers was, so that an image all of which was
    cached is the same image again.
    """
    if state.made_at is None or session.request.created_is_fixed:
        return session.job.created_text
    return time_text(state.made_at)


def _dated(
    session: Session, history: tuple[HistoryEntry, ...], created: str
) -> tuple[HistoryEntry, ...]:
    """The history, in which the lines of this build have the image's time."""
    ours = session.job.created_text
    return tuple(
        replace(entry, created=created) if entry.created == ours else entry for entry in history
    )


def _inline_cache(session: Session, state: StageState) -> Mapping[str, Any]:
    """What the configuration says of the keys that lead to the image's layers, if it was asked for."""
    if not any(place.inline for place in session.request.cache_to):
        return {}
    times = [made.written if made.cached else session.job.started for made in state.chain]
    known = [moment for moment in times if moment is not None]
    written = max(known, default=None) if not session.request.created_is_fixed else None
    keys = [made.keys for made in state.chain]
    return encode_inline(keys, [made.linked for made in state.chain], written)


async def _write_outputs(session: Session, state: StageState, image: BuiltImage) -> None:
    outputs = session.request.outputs
    if not outputs:
        return
    async with trio.open_nursery() as nursery:
        for layer in state.layers:
            if isinstance(layer, BaseLayer):
                nursery.start_soon(session.supply.verified_blob, layer.descriptor, layer.origin)
    for output in outputs:
        write = partial(
            write_output,
            output,
            image,
            session.job.store.blob_path,
            session.request.stdout,
            trio.from_thread.check_cancelled,
        )
        written = await trio.to_thread.run_sync(write)
        session.job.reporter.emit(
            OutputWritten(output.kind.value, output.destination or "", written.manifest.digest)
        )


async def _abandon_uploads(session: Session) -> None:
    """Close the upload sessions that nothing was sent to; a registry would keep them for days."""
    with trio.move_on_after(_ABANDON_SECONDS, shield=True):
        async with trio.open_nursery() as nursery:
            for destination in session.destinations:
                nursery.start_soon(destination.abandon)


async def _sweep(store: Store, seconds: float | None) -> None:
    """Remove what this build discarded and dead ones left, for at most ``seconds``."""
    with trio.move_on_after(math.inf if seconds is None else seconds):
        await trio.to_thread.run_sync(store.sweep, trio.from_thread.check_cancelled)


def _statistics(session: Session) -> Statistics:
    wire = session.job.registries.statistics()
    published = [destination.statistics for destination in session.destinations]
    return Statistics(
        bytes_received=wire.bytes_received,
        bytes_sent=wire.bytes_sent,
        requests=wire.requests,
        layers_pulled=session.supply.layers_pulled,
        layers_pushed=sum(item.pushed for item in published),
        layers_mounted=sum(item.mounted for item in published),
        layers_existing=sum(item.existing for item in published),
        steps_executed=session.steps_executed,
        steps_cached=session.steps_cached,
    )
