"""The keys of a stage: made as soon as its outline and the fingerprints of its files are there.

Files of the context are read while the bases' names are asked for (`read_ahead`), each path once, however
many steps name it.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from asyncbuild.build.futures import Future
from asyncbuild.build.mount_keys import mount_parts
from asyncbuild.build.outline import OutlinedStep, StageOutline
from asyncbuild.build.recipes import (
    StageKeys,
    StepKey,
    content_recipe,
    copy_recipe,
    image_recipe,
    linked_recipe,
    run_recipe,
    scratch_recipe,
    trimmed,
    without_volumes,
    workdir_recipe,
)
from asyncbuild.build.remotes import remote_of
from asyncbuild.build.resolving import BaseImage
from asyncbuild.build.session import Session
from asyncbuild.build.stage_files import find_path
from asyncbuild.cache.keys import Key, Recipe, Value, condensed
from asyncbuild.context.directory import DirectoryContext
from asyncbuild.context.fingerprint import (
    ContentDigests,
    change_fingerprint,
    source_fingerprint,
)
from asyncbuild.context.sources import CopySource, not_found
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.errors import AsyncbuildError
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.plan.nouns import Base, ContextRef, ImageRef, Scratch, StageRef
from asyncbuild.records import replace
from asyncbuild.rootfs.view import View


async def stage_keys(session: Session, index: int) -> StageKeys:
    """The keys of stage ``index``; waits for the keys of the stages that it uses."""
    outline = await session.outline(index).wait()
    base = await base_key(session, outline)
    return StageKeys(base, await keys_upon(session, outline.file_steps, base))


async def base_key(session: Session, outline: StageOutline) -> Key | None:
    """The key of what a stage is FROM, as its steps see it."""
    match outline.base:
        case StageOutline(stage=stage):
            return (await session.keys(stage.index).wait()).final
        case BaseImage() as image:
            return trimmed(image_recipe(image), session.request).key
        case _:
            return trimmed(scratch_recipe(outline.stage.platform), session.request).key


async def keys_upon(
    session: Session, steps: tuple[OutlinedStep, ...], upon: Key | None
) -> tuple[StepKey, ...]:
    """The keys of ``steps``, one after the other, the first of them upon ``upon``."""
    keys: list[StepKey] = []
    for step in steps:
        key = _lossy(await _step_key(session, step, upon), step, session)
        asked = step.instruction.NAME in session.request.cached_instructions
        keys.append(replace(key, asked=asked))
        upon = key.key
    return tuple(keys)


def _lossy(key: StepKey, step: OutlinedStep, session: Session) -> StepKey:
    def of(recipe: Recipe | None) -> Recipe | None:
        return None if recipe is None else without_volumes(recipe, step, session.request)

    return replace(key, recipe=of(key.recipe), linked=of(key.linked))


async def _step_key(session: Session, step: OutlinedStep, upon: Key | None) -> StepKey:
    """The key of one step; behind a step without a key only linked layers have one."""
    try:
        match step.instruction:
            case ins.Copy() | ins.Add() as copied if upon is not None or copied.is_linked:
                return await _copy_key(session, step, copied, upon)
            case _ if upon is None:
                return StepKey(None)
            case ins.Run():
                mounts = await mount_values(session, step, step.instruction)
                recipe = None if mounts is None else run_recipe(step, upon, session.request, mounts)
                return StepKey(recipe, shows_a_stage(step))
            case ins.Workdir():
                return StepKey(workdir_recipe(step, upon))
            case _:
                return StepKey(None)
    except AsyncbuildError as error:
        raise error.at(step.instruction.location) from error


async def _copy_key(
    session: Session, step: OutlinedStep, instruction: ins.Copy | ins.Add, upon: Key | None
) -> StepKey:
    sources, late = await _sources(session, step, instruction)
    if sources is None:
        return StepKey(None, late)
    recipe = None if upon is None else copy_recipe(step, upon, sources)
    linked = linked_recipe(step, sources)
    return StepKey(recipe, late, None if linked is None else trimmed(linked, session.request))


async def _sources(
    session: Session, step: OutlinedStep, instruction: ins.Copy | ins.Add
) -> tuple[Value, bool]:
    """What a COPY's files are, as far as it can be known before anything is executed; and whether
    something stands in for them.
    """
    match step.step.source:
        case StageRef(index):
            final = (await session.keys(index).wait()).final
            return (None if final is None else ("stage", final.hex, instruction.sources)), True
        case ImageRef(reference, platform):
            image = await session.supply.image(reference, platform).wait()
            return ("image", image_recipe(image).key.hex, instruction.sources), False
        case Scratch():
            return ("scratch", instruction.sources), False
        case ContextRef() as ref:
            context = await session.remotes.context(ref).wait()
            work = partial(session.read_contents, _fingerprint, session, context, instruction)
            return tuple([await work(text) for text in instruction.sources]), False
    return tuple([await _source(session, instruction, text) for text in instruction.sources]), False


async def _source(session: Session, instruction: ins.Copy | ins.Add, text: str) -> Value:
    """What one source is: a path in the context, or something to be fetched."""
    if isinstance(instruction, ins.Add):
        remote = remote_of(instruction, text)
        if remote is not None:
            return await session.remotes.fingerprint(instruction, remote)
    return await _of_context(session, instruction, text).wait()


def read_ahead(session: Session) -> None:
    """Begin to read what the keys will be made of: paths of the context that need no variable of a base."""
    for stage in session.plan.stages:
        for step in stage.steps:
            copied = step.instruction
            if isinstance(copied, ins.Copy | ins.Add) and step.source is None:
                for text in copied.sources:
                    if _is_plain_path(copied, text):
                        _of_context(session, copied, text)


def _is_plain_path(instruction: ins.Copy | ins.Add, text: str) -> bool:
    """Whether the words of an instruction are what they will be when it is resolved."""
    words = "".join((text, *instruction.excludes))
    fetched = isinstance(instruction, ins.Add) and remote_of(instruction, text) is not None
    return not fetched and not any(mark in words for mark in "$\\'\"")


def _of_context(session: Session, instruction: ins.Copy | ins.Add, text: str) -> Future[Value]:
    """What a path of the context is, as the instruction's flags have it."""

    async def read() -> Value:
        context = await session.context.wait()
        return await session.read_contents(_fingerprint, session, context, instruction, text)

    parents = isinstance(instruction, ins.Copy) and instruction.parents
    key = ("fingerprint", text, parents, instruction.excludes)
    return session.once(key, f"fingerprint {text}", read)


def _fingerprint(
    session: Session, context: DirectoryContext, instruction: ins.Copy | ins.Add, text: str
) -> Value:
    found = find_path(instruction, text, context)
    return condensed(cast("Value", source_fingerprint(found, session.contents)))


async def run_content_key(session: Session, step: OutlinedStep, upon: Key | None) -> StepKey:
    """The key of a RUN by the content of what other stages show it; these are executed for that."""
    instruction = step.instruction
    assert isinstance(instruction, ins.Run)
    asked = instruction.NAME in session.request.cached_instructions
    mounts = await mount_values(session, step, instruction, by_content=True)
    if upon is None or mounts is None:
        return StepKey(None, asked=asked)
    key = StepKey(run_recipe(step, upon, session.request, mounts), asked=asked)
    return _lossy(key, step, session)


def shows_a_stage(step: OutlinedStep) -> bool:
    """Whether this is a RUN with a mount of a part of another stage; all of one is not worth to be read."""
    if not isinstance(step.instruction, ins.Run):
        return False
    parts = zip(mount_parts(step.instruction), step.step.sources, strict=True)
    return any(part.reads and isinstance(source, StageRef) for part, source in parts)


async def mount_values(
    session: Session, step: OutlinedStep, instruction: ins.Run, *, by_content: bool = False
) -> tuple[Value, ...] | None:
    """What a RUN's mounts are for its key; None if something in them has no key. ``by_content``: parts of
    other stages count by their content and not by what made them.
    """
    values: list[Value] = []
    for part, source in zip(mount_parts(instruction), step.step.sources, strict=True):
        shown: Value = None
        if by_content and part.reads and isinstance(source, StageRef):
            view = await (await session.stage(source.index).wait()).root.view()
            work = partial(session.read_contents, _fingerprint_of_view, view)
            shown = await work(part.reads)
        elif part.reads is not None:
            shown = await _shown(session, source, part.reads)
        if part.reads is not None and shown is None:
            return None
        values.append((*part.parts, shown))
    return tuple(values)


async def _shown(session: Session, source: Base | None, path: str) -> Value:
    """What a mount shows of its source; None if that has no key."""
    match source:
        case StageRef(index):
            final = (await session.keys(index).wait()).final
            return None if final is None else ("stage", final.hex, path)
        case ImageRef(reference, platform):
            image = await session.supply.image(reference, platform).wait()
            return ("image", image_recipe(image).key.hex, path)
        case Scratch():
            return ("scratch", path)
        case ContextRef() as ref:
            files = await session.remotes.context(ref).wait()
            return await session.read_contents(_fingerprint_of, session, files, path)
        case None:
            context = await session.context.wait()
            return await session.read_contents(_fingerprint_of, session, context, path)


def _fingerprint_of(session: Session, context: DirectoryContext, path: str) -> Value:
    real = context.resolve(path)
    entries = tuple(context.walk(real, hardlinks=True))
    if not entries:
        raise not_found(context, path, context.explain)
    source = CopySource(path.rpartition("/")[2], real, entries)
    return condensed(cast("Value", source_fingerprint([source], session.contents)))


def _fingerprint_of_view(view: View, path: str) -> Value:
    """What a stage has at ``path``; None if nothing: the RUN itself says so."""
    real = view.resolve(path)
    entries = tuple(view.walk(real, hardlinks=True))
    source = CopySource(path.rpartition("/")[2], real, entries)
    fresh = ContentDigests()  # these files are in the store, and never the same ones again
    return cast("Value", ("content", source_fingerprint([source], fresh))) if entries else None


async def content_key(
    session: Session, step: OutlinedStep, upon: Key | None, changes: ChangeSet
) -> Key | None:
    """The key of a step by what it made; None if what it was made upon has none."""
    if upon is None:
        return None
    made = await session.read_contents(_fingerprint_of_changes, session, changes)
    recipe = content_recipe(upon, made)
    return without_volumes(recipe, step, session.request).key


def _fingerprint_of_changes(session: Session, changes: ChangeSet) -> Value:
    return condensed(cast("Value", change_fingerprint(changes, session.contents)))
