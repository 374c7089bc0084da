"""A store of named bytes in memory, for caches of objects; it may fail, and it may never answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from asyncbuild.cache.objects import ObjectNames, ObjectsFailed
from asyncbuild.registry.registries import Registries


@dataclass(eq=False)
class MemoryObjects:
    """Both the place and the store. ``fails`` and ``hangs`` are beginnings of names, or ``put``."""

    held: dict[str, bytes] = field(default_factory=dict)
    fails: tuple[str, ...] = ()
    hangs: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    names: ObjectNames = field(default_factory=ObjectNames)
    name: str = "memory"

    def open(self, registries: Registries) -> MemoryObjects:
        """Itself."""
        return self

    async def _come(self, verb: str, name: str) -> None:
        self.asked.append(f"{verb} {name}")
        await trio.lowlevel.checkpoint()
        if self.hangs and (verb.startswith(self.hangs) or name.startswith(self.hangs)):
            await trio.sleep_forever()
        if self.fails and (verb.startswith(self.fails) or name.startswith(self.fails)):
            raise ObjectsFailed("memory: forgotten")

    async def get(self, name: str) -> bytes | None:
        """A small object."""
        await self._come("get", name)
        return self.held.get(name)

    @asynccontextmanager
    async def read(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """An object, in two pieces."""
        await self._come("read", name)
        if name not in self.held:
            raise ObjectsFailed(f"memory: there is no {name}")
        yield Pieces(self.held[name])

    async def put(self, name: str, content: bytes | Path) -> None:
        """Keep an object."""
        await self._come("put", name)
        data = content
        self.held[name] = data if isinstance(data, bytes) else await trio.Path(data).read_bytes()

    async def exists(self, name: str) -> bool:
        """Whether it is kept."""
        await self._come("exists", name)
        return name in self.held


class Pieces:
    """Bytes in two pieces."""

    def __init__(self, data: bytes) -> None:
        half = len(data) // 2
        self._left = [piece for piece in (data[:half], data[half:]) if piece]

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)
