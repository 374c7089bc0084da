"""The session: one build's nursery, and the futures of everything that happens in it.

Stages are started when someone needs them, so a stage that only an ONBUILD of a base refers to needs
no plan of its own. What a stage of the image's own line makes (the target, what it is FROM, and so on)
goes to the destinations; other stages are only looked into by COPY --from, and are never packed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import trio

from asyncbuild.build.futures import Future
from asyncbuild.build.job import Job
from asyncbuild.build.layers import ImageLayer
from asyncbuild.build.packing import Packer
from asyncbuild.build.publish import Destination
from asyncbuild.build.request import BuildRequest
from asyncbuild.build.sandboxes import Sandboxes
from asyncbuild.build.stage import StageState
from asyncbuild.build.supply import Supply
from asyncbuild.context.directory import DirectoryContext, open_context
from asyncbuild.image.reference import Reference
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.plan.nouns import ImageRef, Need, Plan, PlanStage, StageRef, Step
from asyncbuild.registry.upload import UploadSession

UploadSessions = tuple[Future[UploadSession], ...]
"""One at each destination, in their order."""


class Session:
    """Everything that the executor of a stage may ask for."""

    def __init__(
        self,
        job: Job,
        request: BuildRequest,
        plan: Plan,
        execute: Callable[[Session, int], Awaitable[StageState]],
    ) -> None:
        self.job = job
        self.request = request
        self.plan = plan
        self.supply = Supply(job, keep_blobs=bool(request.outputs) or _leaves_home(request, plan))
        self.packer = Packer(job, request.compression)
        self.destinations = _destinations(job, self.supply, request.destinations)
        self.context: Future[DirectoryContext] = job.ledger.spawn(
            job.nursery, "context", self._open_context
        )
        self.sandboxes = Sandboxes(job.nursery, job.ledger)
        job.closing.push_async_callback(self.sandboxes.aclose)
        self.steps_executed = 0
        self._execute = execute
        self._stages: dict[int, Future[StageState]] = {}
        self._published = _line_of(plan)

    def stage(self, index: int) -> Future[StageState]:
        """How stage ``index`` ends; starts it if nobody has yet."""
        if index not in self._stages:
            label = f"stage {self.plan.all_stages[index].label}"
            self._stages[index] = self.job.ledger.spawn(
                self.job.nursery, label, self._execute, self, index
            )
        return self._stages[index]

    def publishes(self, index: int) -> bool:
        """Whether the layers of stage ``index`` are layers of the image."""
        return index in self._published

    def looks_inside(self, stage: PlanStage, todo: Iterable[Step]) -> bool:
        """Whether something will want to see the files of ``stage``'s base."""
        if any(step.need >= Need.FACTS for step in todo):
            return True
        for other in self.plan.stages:
            if StageRef(stage.index) == other.base and self.looks_inside(other, other.steps):
                return True
            if any(StageRef(stage.index) in step.sources for step in other.steps):
                return True
        return False

    def open_uploads(self) -> UploadSessions:
        """Begin an upload at every destination for a layer that is about to be made."""
        return tuple(destination.open_session() for destination in self.destinations)

    def publish(self, layer: ImageLayer, uploads: UploadSessions = ()) -> None:
        """Send ``layer`` to every destination."""
        waiting = uploads or (None,) * len(self.destinations)
        for destination, upload in zip(self.destinations, waiting, strict=True):
            destination.send(layer, upload)

    def materialise(self, changes: ChangeSet) -> Written:
        """``changes`` as a directory, written when it is first asked for."""
        return Written(self.job, changes)

    async def _open_context(self) -> DirectoryContext:
        request = self.request
        return await trio.to_thread.run_sync(open_context, request.context, request.dockerfile_path)


class Written:
    """A change set that becomes a directory when someone needs one."""

    def __init__(self, job: Job, changes: ChangeSet) -> None:
        self._job = job
        self._changes = changes
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
        await self._job.workers.materialise(self._changes, work / "fs")
        return work / "fs"


def _line_of(plan: Plan) -> frozenset[int]:
    """The target, the stage that it is FROM, and so on: their layers are the image's."""
    line = [plan.target_stage]
    while isinstance(line[-1].base, StageRef):
        line.append(plan.all_stages[line[-1].base.index])
    return frozenset(stage.index for stage in line)


def _leaves_home(request: BuildRequest, plan: Plan) -> bool:
    """Whether the base's layers may have to be sent to a registry that they are not in."""
    line = _line_of(plan)
    bases = [stage.base for stage in plan.stages if stage.index in line]
    homes = {base.reference.registry for base in bases if isinstance(base, ImageRef)}
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
