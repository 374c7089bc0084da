"""What the cache would answer: `asyncbuild plan --cache`. Nothing is executed.

Each step that makes files is shown with its key, where a result was found, what the key is made of, and,
for a miss, which inputs changed since the last build of this Dockerfile on this machine: its recipes are
kept in the store as digests, so a changed value can be named and not read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping

import trio

from asyncbuild.build.recipes import StepKey
from asyncbuild.build.session import Session
from asyncbuild.cache.keys import Recipe, changed_parts, frame
from asyncbuild.cache.results import Hit
from asyncbuild.records import dataclass

_UPON = "the steps before it"


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """One step: its text, its recipe (None: its inputs are known only late), the hit if there is one, that
    of its layer alone (``--link``) if it will be used, and the parts that changed since the last build
    (None if there was none).
    """

    label: str
    text: str
    recipe: Recipe | None
    hit: Hit | None
    linked: Hit | None
    changed: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """One stage, in order of its steps; ``skipped`` of them need not be executed."""

    name: str
    skipped: int
    steps: tuple[StepAnswer, ...]


async def ask_cache(session: Session) -> tuple[StageAnswer, ...]:
    """The answers for every stage that the target needs."""
    found = []
    for index in session.plan.needed:
        outline = await session.outline(index).wait()
        keys = (await session.keys(index).wait()).steps
        asked = await session.cache.ask(keys, packed=session.publishes(index))
        hits = await session.cache.find(item.key for item in keys if item.key is not None)
        before = await trio.to_thread.run_sync(_recall, session, outline.stage.label)
        steps = tuple(
            StepAnswer(
                step.named.label,
                step.named.text,
                item.recipe,
                hits.get(item.key) if item.key is not None else None,
                asked.linked.get(place),
                _changed(before, place, item),
            )
            for place, (step, item) in enumerate(zip(outline.file_steps, keys, strict=True))
        )
        found.append(StageAnswer(outline.stage.label, asked.skipped, steps))
    return tuple(found)


def render_answers(stages: Iterable[StageAnswer]) -> str:
    """A text for people."""
    return "".join(f"{line}\n" for stage in stages for line in _stage_lines(stage))


def _stage_lines(stage: StageAnswer) -> Iterator[str]:
    yield f"stage {stage.name}: {len(stage.steps)} steps make files, {stage.skipped} need not be executed"
    usable = stage.skipped - sum(step.linked is not None for step in stage.steps)
    for place, step in enumerate(stage.steps):
        answer = _answer(step, usable=place < usable)
        yield f"  [{step.label}] {step.text.splitlines()[0] if step.text else ''}: {answer}"
        if step.recipe is None:
            yield "      its inputs are known only when they are fetched"
            continue
        names = ", ".join(
            name for name, value in step.recipe.parts if value not in (None, "", (), 0)
        )
        yield f"      key {step.recipe.key.short} of {names}"
        if step.hit is None:
            yield f"      {_why(step)}"


def _answer(step: StepAnswer, *, usable: bool) -> str:
    if step.linked is not None:
        return (
            f"hit of its layer ({step.linked.source}), which --link puts upon what is new below it"
        )
    if step.hit is None:
        return "miss"
    return f"hit ({step.hit.source})" + ("" if usable else ", not usable here")


def _why(step: StepAnswer) -> str:
    if step.changed is None:
        return "why: no build of this Dockerfile is remembered on this machine"
    own = [name for name in step.changed if name != _UPON]
    if own:
        return f"why: {', '.join(own)} changed since the last build"
    if step.changed:
        return "why: only a step before it changed"
    return "why: nothing changed; its result is not kept any more, or was never kept"


def remember_recipes(session: Session) -> None:
    """Keep the digests of this build's recipes, for the next one to be compared with. Blocks."""
    for index in session.plan.needed:
        keys = session.keys_if_known(index)
        if keys is None:
            continue
        digests = [None if item.recipe is None else item.recipe.digests() for item in keys.steps]
        label = session.plan.all_stages[index].label
        session.job.store.put_result(_name(session, label), json.dumps(digests).encode())


def _recall(session: Session, label: str) -> list[Mapping[str, str] | None]:
    raw = session.job.store.result(_name(session, label))
    try:
        return list(json.loads(raw)) if raw else []
    except ValueError:
        return []


def _changed(
    before: list[Mapping[str, str] | None], place: int, item: StepKey
) -> tuple[str, ...] | None:
    if item.recipe is None or place >= len(before) or (old := before[place]) is None:
        return None
    return changed_parts(old, item.recipe.digests())


def _name(session: Session, label: str) -> str:
    """Under which the recipes of one stage of one Dockerfile are kept."""
    path = os.path.abspath(session.request.dockerfile_path)
    return hashlib.sha256(frame(("last build", path, label))).hexdigest()
