"""The layers of an image under construction, and where their bytes are or will be."""

from __future__ import annotations

from dataclasses import dataclass

from asyncbuild.build.futures import Future
from asyncbuild.build.growing import GrowingFile
from asyncbuild.image.digest import DiffId
from asyncbuild.image.manifest import Descriptor
from asyncbuild.image.reference import Reference
from asyncbuild.layers.pack import PackedLayer


@dataclass(frozen=True, slots=True, eq=False)
class BaseLayer:
    """A layer of the base image: it exists in a registry, and is mounted rather than moved."""

    descriptor: Descriptor
    diff_id: DiffId
    origin: Reference


@dataclass(frozen=True, slots=True, eq=False)
class NewLayer:
    """A layer that a step of this build makes: ``file`` grows while it is packed."""

    label: str
    file: GrowingFile
    packed: Future[PackedLayer]


ImageLayer = BaseLayer | NewLayer


async def layer_identity(layer: ImageLayer) -> tuple[Descriptor, DiffId]:
    """The descriptor and the diff id, once they are known."""
    if isinstance(layer, BaseLayer):
        return layer.descriptor, layer.diff_id
    packed = await layer.packed.wait()
    return packed.descriptor, packed.diff_id
