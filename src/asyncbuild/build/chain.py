"""Chains: everything that steps put between a base image and a point of a stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from asyncbuild.build.layers import BaseLayer, ImageLayer
from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import CachedLayer
from asyncbuild.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What one step put on top, by a look-up or by its execution.

    ``keys`` are all keys that lead to it and what is below it; ``linked`` leads to it alone, if it is a
    linked layer. ``work`` gives, when the build has ended, the work directory that has its files in
    ``fs/``, if there is one. ``created`` is when it was made (seconds since the epoch); 0 is now.
    ``written`` is when what a look-up gave was first kept; None if that is unknown. ``step`` is the step as
    its Dockerfile has it, for people. ``steady`` tells, when it was read, whether the files that it is made
    of are still those of its keys. ``kept`` False: no cache gets its result.
    """

    keys: tuple[Key, ...]
    linked: Key | None = None
    layer: ImageLayer | None = None
    work: Callable[[], Path | None] = lambda: None
    cached: CachedLayer | None = None
    created: int = 0
    written: int | None = None
    step: str = ""
    steady: Callable[[], bool] = lambda: True
    kept: bool = True


Chain: TypeAlias = tuple[Made, ...]
"""Bottom first."""


def image_layer(made: Made) -> ImageLayer | None:
    """What a step made as a layer that can be sent somewhere."""
    if made.layer is not None:
        return made.layer
    cached = made.cached
    if cached is None or cached.descriptor is None or cached.diff_id is None:
        return None
    return BaseLayer(cached.descriptor, cached.diff_id, cached.origin, cached)
