"""The inline cache: an image's configuration says which keys lead to its layers. Pure.

It costs one list in the configuration and no request more than the push; it holds only the image's own
layers (mode=min).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import CachedLayer, CachedResult, parse_written
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.manifest import Manifest
from asyncbuild.image.reference import Reference

FIELD = "dev.asyncbuild.cache.inline"


def encode_inline(
    keys: Sequence[tuple[Key, ...]], linked: Sequence[Key | None], written: int | None
) -> Mapping[str, Any]:
    """The field for an image whose topmost layers were made by steps with ``keys``, bottom first;
    ``linked`` has the keys that lead to one of them alone.

    ``written`` (seconds since the epoch) is when the youngest was; None in an image that shall be the same
    whenever it is built: then nothing in it ages.
    """
    steps = [[key.hex for key in step] for step in keys]
    alone = {key.hex: place for place, key in enumerate(linked) if key is not None}
    return {FIELD: {"steps": steps, "linked": alone, "written": written}}


def decode_inline(manifest: Manifest, raw: bytes, origin: Reference) -> dict[Key, CachedResult]:
    """The results in the image's configuration ``raw``; none if it has no such field, or a strange one."""
    try:
        config = ImageConfig.parse(raw)
        created = int(dt.datetime.fromisoformat(config.created or "").timestamp())
        found = config.extra.get(FIELD, ())
        if not isinstance(found, dict):  # as it was before entries had a time of their own
            found = {"steps": found, "written": created}
        steps = [[Key(str(key)) for key in step] for step in found["steps"]]
        alone = {Key(str(key)): int(place) for key, place in found.get("linked", {}).items()}
        written = parse_written(found["written"])
    except (InvalidConfig, KeyError, TypeError, ValueError, AttributeError):
        return {}
    count = len(manifest.layers)
    if not all(0 <= place < len(steps) for place in alone.values()):
        return {}
    if not steps or len(steps) > count or len(config.diff_ids) != count:
        return {}
    layers = [
        CachedLayer(descriptor, diff_id, origin=origin)
        for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    ][count - len(steps) :]
    whole = {
        key: CachedResult(layers[place], tuple(layers[:place]), created, written)
        for place, step in enumerate(steps)
        for key in step
    }
    return whole | {
        key: CachedResult(layers[place], (), created, written) for key, place in alone.items()
    }
