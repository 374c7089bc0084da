"""Records of results: what was written is read, and anything else is damage."""

from __future__ import annotations

import pytest

from asyncbuild.cache.results import CachedLayer, CachedResult, DamagedResult
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import OCI_LAYER_GZIP, Descriptor


def result() -> CachedResult:
    """A result of two layers."""
    blob = Descriptor(OCI_LAYER_GZIP, Digest.of(b"layer"), 5)
    return CachedResult(CachedLayer(blob, DiffId.of(b"tar")), (CachedLayer(tree="ab"),), 7, 8)


def test_round_trip() -> None:
    """Everything in it comes back."""
    assert CachedResult.decode(result().encode()) == result()


def test_each_wrong_byte_is_damage() -> None:
    """Wherever it is: in a digest it would be another layer, with nothing else to tell so."""
    raw = result().encode()
    for place in range(len(raw)):
        for bit in (1, 4, 32):
            damaged = raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :]
            with pytest.raises(DamagedResult):
                CachedResult.decode(damaged)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"7", b"null", b"{", b"[" * 100_000])
def test_what_is_no_record(raw: bytes) -> None:
    """It is damage, whatever it is."""
    with pytest.raises(DamagedResult):
        CachedResult.decode(raw)
