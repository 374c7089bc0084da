"""Results: what a key leads to, and the answers of a look-up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from asyncbuild.cache.keys import Key
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.digest import DiffId, Digest, InvalidDigest
from asyncbuild.image.manifest import Descriptor, InvalidManifest
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass

_CHECK = "check"


class DamagedResult(ValueError):
    """A stored result that cannot be read; the look-up is a miss."""


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """One layer, as a blob by both of its names, or as a tree in our own store, or both.

    ``origin`` is the repository that has the blob; None is our own store. ``tree`` is the key of the
    step whose changes the store keeps unpacked ("" for none).
    """

    descriptor: Descriptor | None = None
    diff_id: DiffId | None = None
    tree: str = ""
    origin: Reference | None = None

    @property
    def packed(self) -> bool:
        """Whether it can be a layer of an image."""
        return self.descriptor is not None and self.diff_id is not None

    @property
    def name(self) -> str:
        """What it is called: its digest, or the key of its tree."""
        return str(self.descriptor.digest) if self.descriptor is not None else self.tree

    def to_json(self) -> dict[str, Any]:
        """What is kept of it; the origin goes without saying."""
        value: dict[str, Any] = {}
        if self.descriptor is not None and self.diff_id is not None:
            value |= {"descriptor": self.descriptor.to_json(), "diffId": str(self.diff_id)}
        if self.tree:
            value["tree"] = self.tree
        return value

    @classmethod
    def from_json(cls, value: Any, origin: Reference | None) -> CachedLayer:
        """Decode `to_json`; `DamagedResult` if it is not that."""
        try:
            tree = str(value.get("tree", "")) if origin is None else ""
            if "descriptor" not in value:
                if not tree:
                    raise DamagedResult("a layer that is nowhere")
                return cls(tree=tree)
            descriptor = Descriptor.from_json(value["descriptor"])
            return cls(descriptor, DiffId.parse(str(value["diffId"])), tree, origin)
        except (KeyError, TypeError, AttributeError, InvalidManifest, InvalidDigest) as error:
            raise DamagedResult(f"a layer of a cache entry: {error}") from None


class CacheLost(AsyncbuildError):
    """What a look-up promised cannot be had after all: the build begins again without it."""

    temporary = True

    def __init__(self, layer: CachedLayer, reason: str) -> None:
        super().__init__(f"a cached layer ({layer.name}) cannot be used: {reason}")
        self.layer = layer


@dataclass(frozen=True, slots=True)
class CachedResult:
    """What a step made: its layer, upon the layers ``below``, bottom first.

    ``below`` is everything between the base image and the step, as it was when the step was executed: a
    hit brings all of it, so that no layer is ever put upon others than its own. ``created`` is the time
    that it has in an image, and ``written`` when it was first kept, by the clock: from then on it ages.
    None if nobody knows; then it does not. Both are in seconds since the epoch. ``step`` is what its
    Dockerfile says, on one line, for people: no key has it, and "" is as good.
    """

    layer: CachedLayer
    below: tuple[CachedLayer, ...] = ()
    created: int = 0
    written: int | None = None
    step: str = ""

    @property
    def layers(self) -> tuple[CachedLayer, ...]:
        """Everything above the base image, up to this step."""
        return (*self.below, self.layer)

    @property
    def packed(self) -> bool:
        """Whether all of it can be layers of an image."""
        return all(layer.packed for layer in self.layers)

    def same_layers(self, other: CachedResult) -> bool:
        """Whether both are the same stack of layers."""
        return [layer.name for layer in self.layers] == [layer.name for layer in other.layers]

    def to_json(self) -> dict[str, Any]:
        """What is kept of it."""
        value = {
            "layer": self.layer.to_json(),
            "below": [layer.to_json() for layer in self.below],
            "created": self.created,
            "written": self.written,
        }
        return {**value, "step": self.step} if self.step else value

    @classmethod
    def from_json(cls, value: Any, origin: Reference | None = None) -> CachedResult:
        """Decode `to_json`; `DamagedResult` if it is not that."""
        try:
            return cls(
                CachedLayer.from_json(value["layer"], origin),
                tuple(CachedLayer.from_json(item, origin) for item in value["below"]),
                created := int(value["created"]),
                parse_written(value.get("written", created)),
                str(value.get("step", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedResult(f"a cache entry: {error}") from None

    @classmethod
    def decode(cls, raw: bytes, origin: Reference | None = None) -> CachedResult:
        """Decode bytes; `DamagedResult` if they are no result, or not as they were written."""
        try:
            value = json.loads(raw)
            found = value.pop(_CHECK, None)
        except (ValueError, RecursionError, AttributeError, TypeError) as error:
            raise DamagedResult(str(error)) from None
        if found != _check(value):
            raise DamagedResult("a cache entry is damaged")
        return cls.from_json(value, origin)

    def encode(self) -> bytes:
        """The bytes that `decode` reads: in files, whose names say nothing of what is in them."""
        value = self.to_json()
        return json.dumps({**value, _CHECK: _check(value)}, sort_keys=True).encode()


def result_blobs(path: Path) -> Iterator[Digest]:
    """Every blob that a record of a cache directory (`asyncbuild.cache.directory`) names. Blocks."""
    for record in (path / "results").glob("*.json"):
        with suppress(OSError, DamagedResult):
            for layer in CachedResult.decode(record.read_bytes()).layers:
                if layer.descriptor is not None:
                    yield layer.descriptor.digest


def parse_written(value: Any) -> int | None:
    """The time at which an entry was written; ValueError or TypeError if it is none."""
    return None if value is None else int(value)


def _check(value: Any) -> str:
    """By this a record is known to be whole: one wrong digit in it would be another layer."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


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
