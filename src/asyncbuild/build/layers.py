"""The layers of an image under construction, and where their bytes are or will be."""

from __future__ import annotations

from asyncbuild.build.futures import Future
from asyncbuild.build.growing import GrowingFile
from asyncbuild.cache.results import CachedLayer
from asyncbuild.image.digest import DiffId
from asyncbuild.image.manifest import Descriptor
from asyncbuild.image.reference import Reference
from asyncbuild.layers.pack import PackedLayer
from asyncbuild.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class BaseLayer:
    """A layer that exists, of the base image or of a cache: it is mounted rather than moved.

    ``origin`` is the repository that has it; None is our own store. ``cached`` says that a look-up gave
    it, which may turn out to have promised too much. ``diff_id`` is None as long as only the image's
    manifest is known: such a layer can be sent, and is no layer of an image yet.
    """

    descriptor: Descriptor
    diff_id: DiffId | None
    origin: Reference | None
    cached: CachedLayer | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NewLayer:
    """A layer that a step of this build makes: ``file`` grows while it is packed.

    ``whole``: it holds all that the step changed, as it is; nothing was left out or given another time.
    """

    label: str
    file: GrowingFile
    packed: Future[PackedLayer]
    whole: bool = True


ImageLayer = BaseLayer | NewLayer


async def layer_identity(layer: ImageLayer) -> tuple[Descriptor, DiffId]:
    """The descriptor and the diff id, once they are known."""
    if isinstance(layer, BaseLayer):
        assert layer.diff_id is not None
        return layer.descriptor, layer.diff_id
    packed = await layer.packed.wait()
    return packed.descriptor, packed.diff_id
