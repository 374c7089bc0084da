"""Places that remember results: one interface for the store, a directory, a registry, an image, objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import Answer, CachedResult
from asyncbuild.image.digest import DiffId


class CacheSource(Protocol):
    """Answers look-ups. Whatever goes wrong in it is an answer (`Absence.UNAVAILABLE`), never an error."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def trouble(self) -> str:
        """Why it did not answer, for people; "" where nothing more is known."""

    async def load(self) -> None:
        """Fetch what answers for many keys at once; called once, before any key is known."""

    async def look_up(self, keys: Iterable[Key], *, quick: bool = False) -> Mapping[Key, Answer]:
        """One answer for each key; takes the round trips of one, and none if it shall be ``quick``."""

    async def listing(self, chain: DiffId) -> bytes | None:
        """The listing of the base with this ChainID (`asyncbuild.layers.listing`), not checked."""


class CacheTarget(Protocol):
    """Keeps results. Its errors are `AsyncbuildError`s, and warnings to the build."""

    @property
    def name(self) -> str:
        """What people call it."""

    async def put(self, keys: tuple[Key, ...], result: CachedResult) -> None:
        """Keep ``result`` under ``keys``; the blobs of its layers are there already."""

    async def put_listing(self, chain: DiffId, data: bytes, *, anew: bool, written: int) -> None:
        """Keep the listing of a base, if there is none yet, or ``anew``; ``written`` is the time."""

    async def finish(self) -> None:
        """Write what answers for many keys at once."""
