"""Digests and diff ids: two names for bytes that are never mixed.

A `Digest` names bytes as they travel (compressed); a `DiffId` names the uncompressed tar of a layer
(OCI image specification, "descriptor" and "config"). Both print as ``algorithm:hex``.
"""

from __future__ import annotations

import re
from typing import Self

from asyncbuild.records import dataclass

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_FORM = re.compile(r"(?P<algorithm>[a-z0-9]+(?:[.+_-][a-z0-9]+)*):(?P<hex>[0-9a-fA-F]+)")


class InvalidDigest(ValueError):
    """Text that is not ``algorithm:hex`` with a supported algorithm and the right length."""


@dataclass(frozen=True, slots=True, order=True)
class _Name:
    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``sha256:<64 hex>`` or ``sha512:<128 hex>``; raise `InvalidDigest` otherwise."""
        match = _FORM.fullmatch(text)
        if match is None or _HEX_LENGTH.get(match["algorithm"]) != len(match["hex"]):
            raise InvalidDigest(f"{text[:160]!r} is not a digest (sha256:… or sha512:…)")
        if match["hex"] != match["hex"].lower():
            raise InvalidDigest(f"{text!r}: the hexadecimal part must be lower case")
        return cls(match["algorithm"], match["hex"])

    @classmethod
    def of(cls, data: bytes | memoryview) -> Self:
        """The sha256 name of ``data``."""
        import hashlib  # noqa: PLC0415 - takes 3 ms, and a build has names to send before it hashes

        return cls("sha256", hashlib.sha256(data).hexdigest())

    def matches(self, data: bytes) -> bool:
        """Whether ``data`` is what this name names."""
        import hashlib  # noqa: PLC0415 - as above

        return hashlib.new(self.algorithm, data).hexdigest() == self.hex

    @property
    def short(self) -> str:
        """The first twelve hexadecimal digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True, order=True)
class Digest(_Name):
    """The name of bytes as they are stored and sent."""


@dataclass(frozen=True, slots=True, order=True)
class DiffId(_Name):
    """The name of a layer's uncompressed tar."""


def chain_id(parent: DiffId | None, diff_id: DiffId) -> DiffId:
    """The ChainID of a layer on top of ``parent`` (OCI image specification, "Layer ChainID")."""
    if parent is None:
        return diff_id
    return DiffId.of(f"{parent} {diff_id}".encode())
