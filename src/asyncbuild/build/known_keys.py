"""The keys of a stage's steps while it is executed: by inputs, and by content as that becomes known."""

from __future__ import annotations

from asyncbuild.build.keys import keys_upon
from asyncbuild.build.outline import StageOutline
from asyncbuild.build.recipes import StageKeys, StepKey
from asyncbuild.build.session import Session
from asyncbuild.cache.keys import Key

BELOW = -1
"""The place of what FROM gives, as that of a step."""


class KnownKeys:
    """The keys that lead to each step's result; places count the steps that change files."""

    def __init__(self, session: Session, outline: StageOutline) -> None:
        self._session = session
        self._steps = outline.file_steps
        self._static = session.keys(outline.stage.index)
        self._by_content: dict[int, Key | None] = {}

    async def static(self) -> StageKeys:
        """Those by inputs, which are known before anything is executed."""
        return await self._static.wait()

    def of(self, static: StageKeys, place: int) -> tuple[Key, ...]:
        """The keys of one step, that by the content of what came before first."""
        keys = self._all(static, place)
        return tuple(dict.fromkeys(key for key in keys if key is not None))

    def upon(self, static: StageKeys, place: int) -> Key | None:
        """The key of what the step at ``place`` is put upon: by its content, if that is known."""
        if place == 0:
            return self._by_content.get(BELOW, static.base)
        return self._all(static, place - 1)[0]

    def learn(self, place: int, key: Key | None) -> None:
        """The key of a step's content, or of that of what FROM gives (`BELOW`)."""
        self._by_content[place] = key

    async def behind(
        self, place: int, itself: StepKey | None = None
    ) -> tuple[tuple[StepKey, ...], int]:
        """The keys of the steps behind ``place`` upon its content, and the place of the first; with
        ``itself`` (its own key by content) it comes first.
        """
        rest = await keys_upon(self._session, self._steps[place + 1 :], self._by_content[place])
        for offset, item in enumerate(rest, place + 1):
            self._by_content[offset] = item.key
        return (rest, place + 1) if itself is None else ((itself, *rest), place)

    def _all(self, static: StageKeys, place: int) -> tuple[Key | None, ...]:
        by_inputs = static.steps[place].key
        return (self._by_content[place], by_inputs) if place in self._by_content else (by_inputs,)
