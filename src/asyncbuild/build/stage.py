"""A stage between two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asyncbuild.build.chain import Chain
from asyncbuild.build.layers import ImageLayer, NewLayer
from asyncbuild.build.metadata import ImageState
from asyncbuild.build.root import Root
from asyncbuild.layers.changeset import ChangeSet
from asyncbuild.plan.scope import StageScope
from asyncbuild.records import dataclass, field


@dataclass(frozen=True, slots=True, eq=False)
class StageState:
    """What the image would say, what words mean, what the root holds, and the layers so far.

    ``layers`` are those of the image's own line of stages; a stage that is never published has none
    of its own. ``chain`` is everything above the base image, for the cache. ``made_at`` (seconds since
    the epoch) is when the youngest of it was made; None if there is nothing.
    """

    image: ImageState
    scope: StageScope
    root: Root = field(default_factory=Root)
    layers: tuple[ImageLayer, ...] = ()
    chain: Chain = ()
    made_at: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a step did to files: the root after it, and the layer if one was packed.

    ``work`` gives, when the build has ended, the work directory that has the changes in ``fs/``, if they
    were ever written. ``changes`` is the change set, for steps that make one.
    """

    root: Root
    layer: NewLayer | None
    work: Callable[[], Path | None]
    changes: ChangeSet | None = None
