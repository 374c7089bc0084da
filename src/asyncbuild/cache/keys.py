"""Cache keys: a framed, versioned chain of SHA-256 over a step's inputs. Pure.

1. A key is over inputs only, so the keys of all steps are known before anything is executed.
2. Every value is framed (its kind and length stand before it), so that no two different recipes have
   the same bytes, however their values are cut.
3. A recipe keeps its parts by name: they can be printed, and compared with those of the last build.
4. In a key: the base by its layers and by what steps can see of its configuration; the step as it will
   be executed; the files it uses (kind, mode, owner, content, link target; no times). Never: when the
   base was made, its labels, secrets, proxy settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeAlias, Union

from asyncbuild.records import dataclass

VERSION = "asyncbuild 2"
"""Part of every key: a change of what keys mean changes this."""

Value: TypeAlias = Union[str, bytes, int, "tuple[Value, ...]", None]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The name of a result: 64 hexadecimal digits."""

    hex: str

    @property
    def short(self) -> str:
        """Twelve digits, for people."""
        return self.hex[:12]

    @property
    def tag(self) -> str:
        """The tag under which a registry keeps the result."""
        return f"k-{self.hex}"

    def __str__(self) -> str:
        return self.hex


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a key is made of: the kind of step, and its inputs by name, in order."""

    kind: str
    parts: tuple[tuple[str, Value], ...]

    @property
    def key(self) -> Key:
        """The key of this recipe."""
        return Key(hashlib.sha256(frame((VERSION, self.kind, self.parts))).hexdigest())

    def digests(self) -> dict[str, str]:
        """Each part's short digest: enough to tell what changed, too little to tell a value."""
        return {
            name: hashlib.sha256(frame((VERSION, self.kind, name, value))).hexdigest()[:16]
            for name, value in self.parts
        }


def frame(value: Value) -> bytes:
    """Bytes from which ``value`` could be read back: equal bytes mean equal values."""
    match value:
        case None:
            return b"n"
        case str():
            data = value.encode("utf-8", "surrogateescape")
            return b"s%d:%b" % (len(data), data)
        case bytes():
            return b"b%d:%b" % (len(value), value)
        case int():
            return b"i%d;" % value
        case tuple():
            return b"t%d:%b" % (len(value), b"".join(map(frame, value)))
    raise TypeError(f"{type(value).__name__} has no frame")


def condensed(value: Value) -> bytes:
    """``value`` as a digest: for one of many parts that stands in several recipes, and is framed once."""
    return hashlib.sha256(frame(value)).digest()


def changed_parts(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the parts that differ between two recipes' `Recipe.digests`, in the order of now."""
    names: Iterable[str] = dict.fromkeys((*now, *before))
    return tuple(name for name in names if before.get(name) != now.get(name))
