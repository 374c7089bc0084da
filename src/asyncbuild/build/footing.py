"""What a stage's steps stand on: the base image, and the layers of the cache on top of it."""

from __future__ import annotations

from functools import partial

from asyncbuild.build.chain import Made
from asyncbuild.build.listings import chain_of
from asyncbuild.build.outline import StageOutline, has_run, layers_and_listed
from asyncbuild.build.resolving import BaseImage
from asyncbuild.build.root import Addition, BaseFiles, Root, Stack
from asyncbuild.build.session import Session
from asyncbuild.build.stage import StageState
from asyncbuild.cache.results import CachedLayer
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.records import replace


def state_upon_base(
    session: Session,
    outline: StageOutline,
    state: StageState,
    cached: tuple[CachedLayer, ...],
    done: int,
) -> StageState:
    """The base image with cached layers on top, those of the first ``done`` steps and of the stages below;
    what of it is in the image is published.
    """
    base = outline.base_image
    below = () if base is None else base.layers
    origin = None if base is None else base.reference
    layers = [session.existing(CachedLayer(*names, origin=origin), base=True) for names in below]
    layers += [session.existing(item) for item in cached if item.packed]
    if session.publishes(outline.stage.index):
        for layer in layers:
            session.publish(layer)
    additions = tuple(cached_addition(session, item) for item in cached)
    files = None if base is None else _files_of(session, base)
    stack = _stack(session, outline, cached, done)
    root = Root(files, additions, outline.lowest.stage.location, stack)
    chain = tuple(Made((), cached=item) for item in cached)
    return replace(state, root=root, layers=tuple(layers), chain=chain)


def cached_addition(session: Session, layer: CachedLayer) -> Addition:
    """A layer of the cache, which is fetched when something asks for its files."""
    size = 0 if layer.descriptor is None else layer.descriptor.size
    return Addition(None, partial(session.supply.cached, layer), size)


def _stack(
    session: Session, outline: StageOutline, cached: tuple[CachedLayer, ...], done: int
) -> Stack | None:
    """What may be known of the base and of the cached layers up to the last RUN among them, unless a
    RUN that comes needs all of it; asked for at once if a step that comes looks at it.
    """
    later = outline.file_steps[done:]
    every, listed = layers_and_listed(outline, done)
    if has_run(later) or every != len(cached):
        return None
    stack = session.listings.stack(outline.base_image, cached[:listed])
    if stack is not None and any(_looks(step.instruction) for step in later):
        stack.listing()
    return stack


def _files_of(session: Session, base: BaseImage) -> BaseFiles:
    return BaseFiles(
        partial(session.supply.root, base),
        partial(session.supply.has_root, base),
        partial(session.listings.known, base),
        partial(session.listings.distrust, chain_of(base)),
        partial(session.glimpses.of, base),
    )


def _looks(instruction: ins.Instruction) -> bool:
    """Whether a step that is no RUN looks at what it is put upon."""
    return not (isinstance(instruction, ins.Copy | ins.Add) and instruction.is_linked)
