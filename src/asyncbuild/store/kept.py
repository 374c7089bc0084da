"""Images that could not be pushed: what is needed to push them later, without building.

A record for each, ``records/kept/<digest>``. New layers are blobs of the store; a layer of a base may be in
its registry only, which the record names.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping

from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.records import dataclass, field
from asyncbuild.store.store import Store


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An image by its manifest, which the store has; where it shall go, and where blobs are that the
    store does not have.
    """

    manifest: Digest
    names: tuple[Reference, ...]
    origins: Mapping[Digest, Reference] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As the record has it."""
        document = {
            "manifest": str(self.manifest),
            "names": [str(name) for name in self.names],
            "origins": {str(digest): str(place) for digest, place in self.origins.items()},
        }
        return json.dumps(document, sort_keys=True).encode()

    @classmethod
    def decode(cls, raw: bytes) -> KeptImage:
        """Read a record; raises ValueError, KeyError or TypeError for what is none."""
        document = json.loads(raw)
        if not isinstance(document, dict) or not isinstance(document.get("origins"), dict):
            raise TypeError("a record of an image is an object")
        return cls(
            Digest.parse(document["manifest"]),
            tuple(Reference.parse(name) for name in document["names"]),
            {
                Digest.parse(digest): Reference.parse_repository(place)
                for digest, place in document["origins"].items()
            },
        )


def keep_image(store: Store, image: KeptImage) -> None:
    """Record it, in the place of an earlier record of the same image. Raises `StoreError`."""
    store.put_kept(str(image.manifest), image.encode())


def kept_images(store: Store) -> tuple[KeptImage, ...]:
    """All that are recorded; damaged records are passed over."""
    found = []
    for raw in store.kept():
        with contextlib.suppress(ValueError, KeyError, TypeError, InvalidDigest, InvalidReference):
            found.append(KeptImage.decode(raw))
    return tuple(found)


def forget_image(store: Store, image: KeptImage) -> None:
    """It has arrived everywhere: the record goes, the blobs stay until they are pruned."""
    store.drop_kept(str(image.manifest))
