"""One layer of all that the steps changed (kaniko's ``--single-snapshot``).

While the steps are executed nothing is packed and nothing published. At the end the base's layers and the
one new layer are; of the history's new lines the last stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio

from asyncbuild.build.layers import BaseLayer, ImageLayer
from asyncbuild.build.session import Session
from asyncbuild.build.stage import StageState
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.image.config import HistoryEntry
from asyncbuild.layers.paths import clean
from asyncbuild.records import replace
from asyncbuild.report.events import Step
from asyncbuild.rootfs.difference import difference


async def squashed(session: Session, state: StageState) -> StageState:
    """``state`` with one layer upon those of its base image, and all of them on their way."""
    base = [item for item in state.layers if isinstance(item, BaseLayer) and item.cached is None]
    layers: list[ImageLayer] = [*base]
    below = await state.root.without_additions().view()
    trees = [await addition.look() for addition in reversed(state.root.additions)]
    changes = await trio.to_thread.run_sync(difference, trees, below)
    if changes:
        label = session.plan.target_stage.label
        step = Step(label, 1, 1, "single snapshot")
        layers.append(session.packer.changes(step, changes, await _emptied(session)))
    for layer in layers:
        session.publish(layer)
    history = tuple(_history(state.image.history, len(base), made=bool(changes)))
    return replace(state, layers=tuple(layers), image=replace(state.image, history=history))


async def _emptied(session: Session) -> frozenset[str]:
    """The directories of which nothing gets into the layer: in kaniko the volumes of the last stage."""
    outline = await session.outline(session.plan.target).wait()
    if not session.request.volumes_are_lost or not outline.steps:
        return frozenset()
    last = outline.steps[-1]
    named = last.instruction.paths if isinstance(last.instruction, ins.Volume) else ()
    return last.volumes | {clean(path) for path in named if path.startswith("/")}


def _history(
    entries: Sequence[HistoryEntry], base_layers: int, *, made: bool
) -> Iterator[HistoryEntry]:
    """The base's lines as they are, and the new ones without layers but the last."""
    left = base_layers
    for number, entry in enumerate(entries, 1):
        if left and not entry.empty_layer:
            left -= 1
            yield entry
        else:
            last = number == len(entries)
            yield replace(entry, empty_layer=not (made and last))
