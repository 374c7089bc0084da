"""The stage executor: walks a stage's steps, and waits for exactly what the step at hand needs.

The narrative: a stage has its outline (what every step means) before anything is executed. The cache is
asked for all of its steps at once; the stage resumes behind the last hit, or begins with what its FROM
gives. Each step that changes files is executed upon the root so far; what it changes becomes a layer
while the next step already runs, and that of a COPY behind what takes long is tried before (`foresight`).
A linked layer that the cache has is put upon the root as it is. When the files that a COPY --from brings
are known, the cache is asked once more, by their content (`known_keys`). What a stage begins upon is in
`footing`; how RUN, COPY, ADD and WORKDIR work is in `run_step` and `copy_step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import trio

from asyncbuild.build.caching import Found
from asyncbuild.build.chain import Chain, Made
from asyncbuild.build.copy_step import copy, foresee, make_working_directory
from asyncbuild.build.expecting import Expected
from asyncbuild.build.footing import cached_addition, state_upon_base
from asyncbuild.build.foresight import Foresight, worth_trying
from asyncbuild.build.guess import Guesses, WrongGuess
from asyncbuild.build.keys import content_key, run_content_key, shows_a_stage
from asyncbuild.build.known_keys import BELOW, KnownKeys
from asyncbuild.build.layers import NewLayer
from asyncbuild.build.outline import OutlinedStep, StageOutline, has_run
from asyncbuild.build.recipes import StageKeys, StepKey
from asyncbuild.build.resolving import BaseImage
from asyncbuild.build.session import Session
from asyncbuild.build.stage import Change, StageState
from asyncbuild.build.step import At
from asyncbuild.cache.results import CachedLayer, CacheLost, Hit
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.errors import AsyncbuildError
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.plan.nouns import ImageRef, Need, StageRef
from asyncbuild.records import replace
from asyncbuild.report import events


async def execute_stage(session: Session, index: int) -> StageState:
    """Execute a stage and return how it ends; its layers may still be on their way.

    Where a step fails, what the steps before it made is kept first: the next build begins there.
    """
    outline = await session.outline(index).wait()
    try:
        try:
            return await _execute_outline(session, outline, Guesses(allowed=True))
        except WrongGuess as wrong:
            wrong.correct()
            return await _execute_outline(session, outline, Guesses(allowed=False))
    except CacheLost:
        raise
    except AsyncbuildError:
        await session.failing()
        raise


async def _execute_outline(session: Session, outline: StageOutline, guesses: Guesses) -> StageState:
    started = trio.current_time()
    walk = _Walk(session, outline, guesses)
    await walk.resume()
    session.tell(events.StageStarted(outline.stage.label, _base_text(outline), len(outline.steps)))
    try:
        async with session.turn(walk.rest):
            for step in outline.steps:
                await walk.take(step)
            state = await walk.finish()
    except WrongGuess:
        walk.withdraw()
        raise
    finally:
        walk.foresight.close()
    session.tell(events.StageFinished(outline.stage.label, trio.current_time() - started))
    return state


class _Walk:
    """A stage on its way: ``done`` counts the steps that changed files, by a hit or by execution."""

    def __init__(self, session: Session, outline: StageOutline, guesses: Guesses) -> None:
        self._session = session
        self._outline = outline
        self._steps = outline.file_steps
        self._published = session.publishes(outline.stage.index)
        self._keys = KnownKeys(session, outline)
        self._guesses = guesses
        self.foresight = Foresight(session.job, session.withdraw)
        self._linked: Mapping[int, Hit] = {}
        self._untold: list[Chain] = []
        self._sent: list[NewLayer] = []
        self._has_run = False
        self._cached = 0
        self._done = 0
        self._state = StageState(outline.image, outline.scope)

    @property
    def rest(self) -> Sequence[OutlinedStep]:
        """The steps behind the last hit that change files."""
        return self._steps[self._cached :]

    async def resume(self) -> None:
        """Begin behind the last hit; without one, with what FROM gives."""
        base = self._outline.base_image
        if base is not None and self._session.looks_inside(self._outline) >= Need.FACTS:
            self._session.listings.known(base)
        if self._session.asks(self._outline.stage):
            static = await self._keys.static()
            found = await self._look_up(static)
            self._linked = found.linked
            if found.last is not None:
                self._jump(static, *found.last)
        if not self._cached:
            self._state = await self._from_base()
            await self._look_upon_a_stage()
        self._start_what_is_needed()

    async def _look_up(self, static: StageKeys) -> Found:
        """What the cache has. While it is asked for what no index lists, what is needed then is begun."""
        ask = partial(self._session.cache.ask, static.steps, packed=self._published)
        listed = await ask(quick=True)
        if listed.skipped == len(static.steps):
            return listed
        expected = Expected(self._session)
        expected.begin(self._outline, listed)
        found = await ask()
        if found.skipped != listed.skipped:
            expected.withdraw()
        return found

    async def take(self, step: OutlinedStep) -> None:
        """One step: files if it changes any, and a word about it."""
        session = self._session
        session.tell(events.StepStarted(step.named))
        started = trio.current_time()
        outcome = events.Outcome.EXECUTED
        if step.changes_files and self._done >= self._cached:
            await self._look_by_what_is_shown(step)
        if step.changes_files and self._done < self._cached:
            self._done += 1
            outcome = events.Outcome.CACHED
        elif step.changes_files and self._done in self._linked:
            await self._put(self._linked[self._done])
            outcome = events.Outcome.CACHED
        elif step.changes_files:
            await self._execute(step, started)
        session.count(outcome)
        session.tell(events.StepFinished(step.named, trio.current_time() - started, outcome))

    async def finish(self) -> StageState:
        """The state behind the last step, once all guesses are checked."""
        end = replace(self._state, image=self._outline.image, scope=self._outline.scope)
        self._session.on_end(self._outline.stage.index, end)
        await self._guesses.check(end.root, at_end=True)
        self._tell_cache()
        return end

    def withdraw(self) -> None:
        """Take back the layers that rest on a wrong guess: they are in no image."""
        for layer in self._sent:
            self._session.withdraw(layer)

    async def _from_base(self) -> StageState:
        """The image, the stage or the nothing that FROM names. Base layers are published from here on."""
        match self._outline.base:
            case StageOutline(stage=stage):
                return await self._session.stage(stage.index).wait()
            case BaseImage() as base:
                state = self._upon_base(())
                need = self._session.looks_inside(self._outline)
                if need is Need.FACTS:
                    fetch = self._session.listings.fetch_if_unknown
                    self._session.job.nursery.start_soon(fetch, base)
                elif need is Need.ROOT:
                    self._session.supply.root(base)
                return state
            case _:
                return self._state

    def _upon_base(self, cached: tuple[CachedLayer, ...]) -> StageState:
        """The base image with the cached layers of the steps so far on top."""
        return state_upon_base(self._session, self._outline, self._state, cached, self._cached)

    def _jump(self, static: StageKeys, place: int, hit: Hit) -> None:
        """Go behind the step at ``place``, whose result is ``hit``."""
        self._cached = place + 1
        self._state = self._upon_base(hit.result.layers)
        created = hit.result.created
        written = hit.result.written
        chain = [replace(made, created=created, written=written) for made in self._state.chain]
        own = chain if len(chain) == place + 1 else chain[-1:]  # others belong to the stages below
        for step, made in zip(range(place, -1, -1), reversed(own), strict=False):
            keys = self._keys.of(static, step)
            about, linked = self._steps[step].about, static.steps[step].linked_key
            kept = static.steps[step].asked
            chain[chain.index(made)] = replace(
                made, keys=keys, linked=linked, step=about, kept=kept
            )
        self._state = replace(self._state, chain=tuple(chain), made_at=created)
        self._untold.append(self._state.chain)
        self._tell_cache()

    async def _put(self, hit: Hit) -> None:
        """Put a linked layer of the cache upon what is here: it is the same upon anything."""
        session, here, state = self._session, self._done, self._state
        static = await self._keys.static()
        item, created = hit.result.layer, hit.result.created
        layers = state.layers
        if item.packed:
            layers = (*layers, session.existing(item))
            if self._published:
                session.publish(layers[-1])
        made = Made(
            self._keys.of(static, here),
            static.steps[here].linked_key,
            cached=item,
            created=created,
            written=hit.result.written,
            step=self._steps[here].about,
        )
        self._state = replace(
            state,
            root=state.root.with_addition(cached_addition(session, item)),
            layers=layers,
            chain=(*state.chain, made),
            made_at=max(state.made_at or 0, created),
        )
        self._done += 1
        self._untold.append(self._state.chain)
        self._tell_cache()

    async def _check_guesses(self) -> None:
        await self._guesses.check(self._state.root)
        self._tell_cache()

    def _tell_cache(self) -> None:
        """Let the cache know what was made, unless it rests on a guess."""
        follows = has_run(self._steps[self._done :])
        if not self._guesses.pending(run_follows=follows):
            for chain in self._untold:
                self._session.cache.made(
                    self._outline.stage.index, chain, published=self._published
                )
            self._untold.clear()

    def _start_what_is_needed(self) -> None:
        """Start the stages and fetch the files that the steps still to be executed will ask for."""
        todo = dict(enumerate(self._steps[self._cached :], self._cached))
        for place in self._linked:
            del todo[place]
            if has_run(self._steps[place:]):
                self._session.supply.cached(self._linked[place].result.layer)
        if self._published:
            self._session.reserve_uploads(len(todo))
        for step in todo.values():
            self._session.prefetch(step)
        if has_run(self._steps[self._cached :]):
            self._session.backends.prepare()
            self._state.root.start()
        for step in worth_trying(self._outline, self._cached):
            if step in todo.values():
                self._foresee(step)

    def _foresee(self, step: OutlinedStep) -> None:
        at = self._at(step, self._steps.index(step))
        if at.packed and isinstance(step.instruction, ins.Copy):
            self.foresight.begin(step.named, partial(foresee, at, step.instruction))

    def _at(self, step: OutlinedStep, place: int) -> At:
        """Where a step is executed, upon what is there now."""
        state = replace(self._state, image=step.image, scope=step.scope)
        more_runs = has_run(self._steps[place + 1 :])
        surroundings = (self._session, self._outline.stage, step.step, step.named)
        emptied = step.volumes if self._session.request.volumes_are_lost else frozenset()
        return At(*surroundings, state, self._guesses, self.foresight, more_runs, emptied)

    async def _execute(self, step: OutlinedStep, started: float) -> None:
        """Execute a step that changes files, and let the cache know."""
        session, here = self._session, self._done
        await session.goes_on()
        at = self._at(step, here)
        try:
            if isinstance(step.instruction, ins.Run):
                await self._check_guesses()
            change = await _change(at, step.instruction)
        except AsyncbuildError as error:
            seconds = trio.current_time() - started
            session.tell(events.StepFinished(step.named, seconds, events.Outcome.FAILED))
            raise error.at(step.instruction.location) from error
        self._done += 1
        layers = self._state.layers if change.layer is None else (*self._state.layers, change.layer)
        self._sent += [] if change.layer is None else [change.layer]
        self._state = replace(
            self._state, root=change.root, layers=layers, made_at=session.job.created
        )
        await self._remember(here, change)
        self._has_run = self._has_run or isinstance(step.instruction, ins.Run)
        if self._has_run and session.lists(self._outline, self._done):
            session.listings.learn_stack(
                self._outline.base_image, self._state.chain, self._state.root
            )

    async def _remember(self, place: int, change: Change) -> None:
        """Note what a step made under its keys; by a late key, look whether it was made before."""
        session = self._session
        static = await self._keys.static()
        late = static.steps[place].late and change.changes is not None
        if late and change.changes is not None:
            upon, step = self._keys.upon(static, place), self._steps[place]
            self._keys.learn(place, await content_key(session, step, upon, change.changes))
        keys, linked = self._keys.of(static, place), static.steps[place].linked_key
        about, kept = self._steps[place].about, static.steps[place].asked
        steady = partial(session.contents.are_steady, change.changes or ChangeSet())
        made = Made(keys, linked, change.layer, change.work, step=about, steady=steady, kept=kept)
        self._state = replace(self._state, chain=(*self._state.chain, made))
        self._untold.append(self._state.chain)
        self._tell_cache()
        if late:
            await self._look_again(static, place)

    async def _look_upon_a_stage(self) -> None:
        """FROM a stage that is known by its content: what was made upon the same content will do."""
        chain = self._state.chain
        upon_a_stage = isinstance(self._outline.base, StageOutline)
        if not upon_a_stage or not self._steps or not chain or not chain[-1].keys:
            return
        static = await self._keys.static()
        if chain[-1].keys[0] != static.base:
            self._keys.learn(BELOW, chain[-1].keys[0])
            await self._look_again(static, BELOW)
            self._linked = {at: hit for at, hit in self._linked.items() if at >= self._cached}

    async def _look_by_what_is_shown(self, step: OutlinedStep) -> None:
        """A RUN that is shown files of other stages is asked for once more, by what these files are."""
        if not shows_a_stage(step):
            return
        session, here = self._session, self._done
        static = await self._keys.static()
        await session.goes_on()
        shown = await run_content_key(session, step, self._keys.upon(static, here))
        self._keys.learn(here, shown.key)
        await self._look_again(static, here, shown)

    async def _look_again(
        self, static: StageKeys, place: int, itself: StepKey | None = None
    ) -> None:
        """The content of the step at ``place`` is known now: what follows may have been made upon the same
        content; or the content of what it is shown: then it may have been made ``itself``.
        """
        keys, first = await self._keys.behind(place, itself)
        if self._session.asks(self._outline.stage):
            quick = itself is None  # a RUN is worth a request
            found = await self._session.cache.ask(keys, packed=self._published, quick=quick)
            if found.last is not None:
                self._jump(static, first + found.last[0], found.last[1])


async def _change(at: At, instruction: ins.Instruction) -> Change:
    match instruction:
        case ins.Run():
            from asyncbuild.build.run_step import run  # noqa: PLC0415 - as the backends

            return await run(at, instruction)
        case ins.Copy() | ins.Add():
            return await copy(at, instruction)
        case ins.Workdir():
            return await make_working_directory(at, instruction)
        case _:
            raise AssertionError(f"{instruction.NAME} changes no files")


def _base_text(outline: StageOutline) -> str:
    match outline.stage.base:
        case ImageRef(reference, _):
            return reference.familiar
        case StageRef(index):
            return f"stage {index}"
        case _:
            return "scratch"
