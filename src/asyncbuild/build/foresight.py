"""Foresight: a COPY behind a step that takes long is packed and sent before it is its turn.

What such a COPY makes seldom depends on what the RUN before it did: it fills a directory of its own. So
when a stage begins, what each of them would make upon a base with nothing there is found, packed and
sent, while the base and the RUNs are still on their way. A COPY --from is tried as soon as the stage that
it takes from is done: of four stages' files all but the last one's are at the registry when that is done.
When it is its turn the step looks at the real root as ever; if the same change set comes out, its layer is
there already, else that layer is withdrawn. Nothing is assumed, only tried: the price of an error is an
upload in vain. Where one is likely nothing is tried: where a base may have the directory and RUNs change it
unasked, or a step before names it. What the base has at ``/srv`` and the like its listing tells, or its
layers' beginnings (`asyncbuild.build.glimpses`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

from asyncbuild.build.futures import Future
from asyncbuild.build.guess import COMMON, SELDOM_CHANGED
from asyncbuild.build.job import Job
from asyncbuild.build.layers import NewLayer
from asyncbuild.build.outline import OutlinedStep, StageOutline
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.paths import absolute_destination, absolute_workdir
from asyncbuild.errors import AsyncbuildError
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.plan.nouns import StageRef
from asyncbuild.records import dataclass
from asyncbuild.report import events
from asyncbuild.rootfs.known import NotKnown
from asyncbuild.rootfs.view import View


@dataclass(frozen=True, slots=True, eq=False)
class Foreseen:
    """What a step puts into any root (``placed`` blocks), what that was upon the one that was foreseen,
    and the layer of this.
    """

    placed: Callable[[View], ChangeSet]
    changes: ChangeSet
    layer: NewLayer


class Foresight:
    """What is tried for the steps of one execution of a stage; ``withdraw`` takes a layer back."""

    def __init__(self, job: Job, withdraw: Callable[[NewLayer], None]) -> None:
        self._job = job
        self._withdraw = withdraw
        self._tried: dict[events.Step, Future[Foreseen | None]] = {}
        self._closed = False

    def begin(self, step: events.Step, work: Callable[[], Awaitable[Foreseen]]) -> None:
        """Try a step. Its errors are told when it is its turn."""
        self._tried[step] = self._job.ledger.spawn(
            self._job.nursery, f"{step.label} ahead", self._try, work
        )

    async def _try(self, work: Callable[[], Awaitable[Foreseen]]) -> Foreseen | None:
        with suppress(AsyncbuildError, NotKnown):
            found = await work()
            if self._closed:
                self._withdraw(found.layer)
            return found
        return None

    async def of(self, step: events.Step) -> Foreseen | None:
        """What was tried for the step whose turn it is; None if nothing was."""
        tried = self._tried.get(step)
        return None if tried is None else await tried.wait()

    def used(self, step: events.Step, changes: ChangeSet) -> NewLayer | None:
        """The layer of a step that turned out to make ``changes``, if it was foreseen so; else it is taken
        back.
        """
        tried = self._tried.pop(step, None)
        found = None if tried is None else tried.value_nowait()
        if found is None or found.changes == changes:
            return None if found is None else found.layer
        self._withdraw(found.layer)
        return None

    def close(self) -> None:
        """Take back what no step used."""
        for tried in self._tried.values():
            if tried.done and not tried.failed and (found := tried.value_nowait()) is not None:
                self._withdraw(found.layer)
        self._closed = True


def worth_trying(outline: StageOutline, done: int) -> Iterator[OutlinedStep]:
    """The steps behind one that takes long (a RUN, a COPY from another stage) that can be tried; the first
    ``done`` that change files are not executed.
    """
    named = [_first_name(step.image.working_dir) for step in _steps_below(outline)]
    named += [text for step in _steps_below(outline) for text in _texts(step)]
    filled: list[str] = []
    waits = False
    for place, step in enumerate(outline.file_steps):
        match step.instruction:
            case ins.Run():
                waits = waits or place >= done
            case ins.Copy() as copy:
                of_a_stage = isinstance(step.step.source, StageRef)
                if waits and (of_a_stage or step.step.source is None):
                    path = absolute_destination(step.image.working_dir, copy.destination)
                    if copy.is_linked or _is_its_own(path, filled, named):
                        yield step
                waits = waits or (of_a_stage and place >= done)
        named += _texts(step)
        filled += _filled(step)


def _is_its_own(path: str, filled: Sequence[str], named: Sequence[str]) -> bool:
    """Whether no base is likely to have ``path``, nothing before it says it, and no COPY ``filled`` it."""
    name = _first_name(path)
    if not name or name in COMMON - SELDOM_CHANGED or any(name in text for text in named):
        return False
    own = _as_directory(path)
    others = map(_as_directory, filled)
    return not any(own.startswith(other) or other.startswith(own) for other in others)


def _as_directory(path: str) -> str:
    return path.removesuffix("/.").rstrip("/") + "/"


def _steps_below(outline: StageOutline) -> Iterator[OutlinedStep]:
    """The steps of the stages that this one is FROM, and its own first one for the base's WORKDIR."""
    yield from outline.steps[:1]
    below = outline.base
    while isinstance(below, StageOutline):
        yield from below.steps
        below = below.base


def _texts(step: OutlinedStep) -> list[str]:
    """Where a step says which directories it touches."""
    match step.instruction:
        case ins.Run() as run:
            mounts = [str(mount) for mount in run.mounts]
            scripts = [heredoc.content for heredoc in run.heredocs]
            return [*run.command, *scripts, *mounts, _first_name(step.image.working_dir)]
        case ins.Workdir() as workdir:
            return [_first_name(absolute_workdir(step.image.working_dir, workdir.path))]
        case _:
            return []


def _filled(step: OutlinedStep) -> list[str]:
    """Where a step puts files; beside that it changes nothing but a parent that was missing."""
    match step.instruction:
        case ins.Copy() | ins.Add() as copy:
            return [absolute_destination(step.image.working_dir, copy.destination)]
        case _:
            return []


def _first_name(path: str) -> str:
    return path.strip("/").partition("/")[0]
