"""What will be needed if caches have no more than their indexes list: begun while they are asked once more.

A key that no index lists is asked for by its tag, which takes a round trip and is mostly in vain. So at the
same time the keys of the stages are asked for that a missing step would need, theirs in turn, and the bases
of RUNs that would be executed are fetched. If a tag has something after all, what was begun is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import trio

from asyncbuild.build.caching import Found
from asyncbuild.build.outline import OutlinedStep, StageOutline, has_run
from asyncbuild.build.resolving import BaseImage
from asyncbuild.build.session import Session
from asyncbuild.errors import AsyncbuildError
from asyncbuild.plan.nouns import StageRef


class Expected:
    """What one stage's look-up has begun. Errors are told where the same is asked for again."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._scope = trio.CancelScope()
        self._images: list[BaseImage] = []
        self._seen: set[int] = set()

    def begin(self, outline: StageOutline, listed: Found) -> None:
        """Begin what a stage needs of which indexes list what is ``listed``."""
        self._session.job.nursery.start_soon(self._begin, outline, listed)

    def withdraw(self) -> None:
        """It is not needed: end what nobody else has asked for."""
        self._scope.cancel()
        for image in self._images:
            self._session.supply.withdraw(image)

    async def _begin(self, outline: StageOutline, listed: Found) -> None:
        with self._scope, suppress(AsyncbuildError):
            async with trio.open_nursery() as nursery:
                await self._expect(nursery, outline, listed)

    async def _expect(self, nursery: trio.Nursery, outline: StageOutline, listed: Found) -> None:
        missing = tuple(_missing(outline, listed))
        for index in _stages_below(outline, listed, missing):
            if index not in self._seen:
                self._seen.add(index)
                nursery.start_soon(self._ask, nursery, index)
        base = outline.base_image
        if base is not None and has_run(missing):
            self._images.append(base)
            await self._session.supply.fetch_perhaps(base)

    async def _ask(self, nursery: trio.Nursery, index: int) -> None:
        """Ask for the keys of a stage; the answers are kept for when it is executed."""
        session = self._session
        with suppress(AsyncbuildError):
            outline = await session.outline(index).wait()
            listed = Found()
            if session.asks(outline.stage):
                steps = (await session.keys(index).wait()).steps
                packed = session.publishes(index)
                listed = await session.cache.ask(steps, packed=packed, quick=True)
                if listed.skipped < len(steps):
                    nursery.start_soon(session.cache.find, [s.key for s in steps if s.key])
            await self._expect(nursery, outline, listed)


def _missing(outline: StageOutline, listed: Found) -> Iterator[OutlinedStep]:
    """The steps that have to be executed, as far as is known."""
    begin = 0 if listed.last is None else listed.last[0] + 1
    for place, step in enumerate(outline.file_steps):
        if place >= begin and place not in listed.linked:
            yield step


def _stages_below(
    outline: StageOutline, listed: Found, missing: tuple[OutlinedStep, ...]
) -> Iterator[int]:
    """The stages that are executed, or looked into, for the ``missing`` steps."""
    if listed.last is None and isinstance(outline.base, StageOutline):
        yield outline.base.stage.index
    for step in missing:
        for source in step.step.sources:
            if isinstance(source, StageRef):
                yield source.index
