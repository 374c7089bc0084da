"""The index of a scope: one answer of a registry tells every key, its layers, and what bases say. Pure.

It is an OCI image index, so that a registry keeps the entries which it lists as long as it is there. What
they mean is one annotation, packed: an answer of up to ten segments (14 KB) comes in one round trip, a
larger one takes another for each time that it is twice as large.

::

    {"layers": [LAYER, …],                              every layer once
     "entries": [[KEY, CREATED, WRITTEN, PLACE, …], …]  as the index lists them; places in "layers",
                                                        bottom first
     "configs": [TEXT, …]}                              configurations of bases: known by their digests
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import CachedLayer, CachedResult, parse_written
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_MANIFEST, Descriptor, Index
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field, replace

TABLE = "dev.asyncbuild.cache.table"
MOST_CONFIGS = 16
LARGEST_CONFIG = 64 << 10
_LARGEST_TABLE = 16 << 20
"""Bytes when unpacked: what a registry says is not trusted to be as small as it looks."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One key of a scope index: the entry's manifest, and the result."""

    descriptor: Descriptor
    result: CachedResult


@dataclass(frozen=True, slots=True)
class ScopeIndex:
    """What an index tells: results by key, and configurations of the bases that they are made upon. A build
    that knows one of these by its digest need not ask for it.
    """

    entries: Mapping[Key, IndexEntry] = field(default_factory=dict)
    configs: Mapping[Digest, bytes] = field(default_factory=dict)


def encode_index(scope: ScopeIndex) -> Index:
    """A scope index. Layers stand in one list and are named by their place: chains share most of them."""
    layers: list[CachedLayer] = []
    places: dict[tuple[str, str], int] = {}

    def place(layer: CachedLayer) -> int:
        assert layer.descriptor is not None
        name = (str(layer.descriptor.digest), str(layer.diff_id))
        if name not in places:
            places[name] = len(layers)
            layers.append(replace(layer, tree=""))
        return places[name]

    entries = [
        [key.hex, entry.result.created, entry.result.written, *map(place, entry.result.layers)]
        for key, entry in scope.entries.items()
    ]
    table = {
        "layers": [layer.to_json() for layer in layers],
        "entries": entries,
        "configs": [raw.decode() for raw in scope.configs.values()],
    }
    packed = zlib.compress(json.dumps(table, separators=(",", ":")).encode(), 9)
    listed = tuple(entry.descriptor for entry in scope.entries.values())
    return Index.make(listed, annotations={TABLE: base64.b64encode(packed).decode()})


def decode_index(index: Index, reference: Reference) -> ScopeIndex:
    """What a scope index tells; what cannot be read is left out."""
    origin = replace(reference, tag=None)
    try:
        table = _unpack(index.annotations.get(TABLE, ""))
        layers = [CachedLayer.from_json(item, origin) for item in table["layers"]]
        listed = list(zip(index.manifests, table["entries"], strict=True))
        configs = {Digest.of(raw): raw for raw in map(str.encode, table["configs"])}
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error):
        return ScopeIndex()
    entries = {}
    for descriptor, item in listed:
        result = _decode_result(item, layers)
        if result is not None:
            plain = Descriptor(OCI_MANIFEST, descriptor.digest, descriptor.size)
            entries[Key(str(item[0]))] = IndexEntry(plain, result)
    return ScopeIndex(entries, configs)


def chosen_configs(found: Iterable[bytes]) -> dict[Digest, bytes]:
    """Of the configurations ``found``, the most important first, those that an index keeps."""
    kept: dict[Digest, bytes] = {}
    for raw in found:
        if len(kept) < MOST_CONFIGS and len(raw) <= LARGEST_CONFIG and _is_text(raw):
            kept[Digest.of(raw)] = raw
    return kept


def _unpack(text: str) -> dict[str, Any]:
    inflater = zlib.decompressobj()
    raw = inflater.decompress(base64.b64decode(text, validate=True), _LARGEST_TABLE)
    if inflater.unconsumed_tail:
        raise ValueError("a table that is too large")
    table = json.loads(raw)
    if not isinstance(table, dict):
        raise TypeError("no table")
    return table


def _decode_result(item: Any, layers: list[CachedLayer]) -> CachedResult | None:
    try:
        _, created, written, *places = item
        chain = [layers[int(place)] for place in places]
        return CachedResult(chain[-1], tuple(chain[:-1]), int(created), parse_written(written))
    except (ValueError, TypeError, IndexError):
        return None


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
