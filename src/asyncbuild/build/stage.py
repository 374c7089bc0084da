"""A stage between two steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncbuild.build.layers import ImageLayer
from asyncbuild.build.metadata import ImageState
from asyncbuild.build.root import Root
from asyncbuild.plan.scope import StageScope


@dataclass(frozen=True, slots=True, eq=False)
class StageState:
    """What the image will say, what words mean, what the root holds, and the layers so far.

    ``layers`` are those of the image's own line of stages; a stage that is never published has none
    of its own.
    """

    image: ImageState
    scope: StageScope
    root: Root = field(default_factory=Root)
    layers: tuple[ImageLayer, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a step did to files: the root after it, and the layer if one was packed."""

    root: Root
    layer: ImageLayer | None
