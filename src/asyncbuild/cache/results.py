"""Results: what a key leads to, and the answers of a look-up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from asyncbuild.cache.keys import Key
from asyncbuild.image.digest import DiffId, Digest, InvalidDigest
from asyncbuild.image.manifest import Descriptor, InvalidManifest
from asyncbuild.image.reference import InvalidReference, Reference


class DamagedResult(ValueError):
    """A stored result that cannot be read; the look-up is a miss."""


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """One layer: by both of its names, and the repository that has its blob (None: our own store)."""

    descriptor: Descriptor
    diff_id: DiffId
    origin: Reference | None = None

    def to_json(self) -> dict[str, Any]:
        """For an entry's annotations; the origin goes without saying."""
        return {"descriptor": self.descriptor.to_json(), "diffId": str(self.diff_id)}

    @classmethod
    def from_json(cls, value: Any, origin: Reference | None) -> CachedLayer:
        """Decode `to_json`; `DamagedResult` if it is not that."""
        try:
            return cls(
                Descriptor.from_json(value["descriptor"]),
                DiffId.parse(str(value["diffId"])),
                origin,
            )
        except (KeyError, TypeError, InvalidManifest, InvalidDigest) as error:
            raise DamagedResult(f"a layer of a cache entry: {error}") from None


@dataclass(frozen=True, slots=True)
class CachedResult:
    """What a step made: its layer upon the layers ``below`` of the same stage, bottom first.

    ``below`` is what the step was really executed upon, the base's layers not among them. ``created``
    is in seconds since the epoch.
    """

    layer: CachedLayer
    below: tuple[CachedLayer, ...] = ()
    created: int = 0

    @property
    def layers(self) -> tuple[CachedLayer, ...]:
        """All layers of the stage up to this step."""
        return (*self.below, self.layer)

    def to_json(self) -> dict[str, Any]:
        """What is kept of it."""
        return {
            "layer": self.layer.to_json(),
            "below": [layer.to_json() for layer in self.below],
            "created": self.created,
        }

    @classmethod
    def from_json(cls, value: Any, origin: Reference | None = None) -> CachedResult:
        """Decode `to_json`; `DamagedResult` if it is not that."""
        try:
            return cls(
                CachedLayer.from_json(value["layer"], origin),
                tuple(CachedLayer.from_json(item, origin) for item in value["below"]),
                int(value["created"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedResult(f"a cache entry: {error}") from None

    @classmethod
    def decode(cls, raw: bytes, origin: Reference | None = None) -> CachedResult:
        """Decode bytes; `DamagedResult` if they are no result."""
        try:
            return cls.from_json(json.loads(raw), origin)
        except (ValueError, RecursionError) as error:
            raise DamagedResult(str(error)) from None

    def encode(self) -> bytes:
        """The bytes that `decode` reads."""
        return json.dumps(self.to_json(), sort_keys=True).encode()


class Absence(Enum):
    """Why there is no result."""

    MISS = "miss"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Hit:
    """A result, and the source that had it (as people see it)."""

    key: Key
    result: CachedResult
    source: str


Answer = Hit | Absence
