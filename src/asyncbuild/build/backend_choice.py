"""The backend of a build, which is chosen when a RUN is near.

What executes RUN is imported then, too: a build that is cached or has no RUN starts without all of it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from asyncbuild.build.futures import Future
from asyncbuild.build.job import Job
from asyncbuild.build.run_options import RunOptions
from asyncbuild.errors import AsyncbuildError

if TYPE_CHECKING:
    from asyncbuild.build.backend import Backend


class BackendChoice:
    """Finds the backend once, when it is first asked for; a build without RUN never asks."""

    def __init__(self, job: Job, options: RunOptions) -> None:
        self._job = job
        self._options = options
        self._found: Future[Backend] | None = None

    def prepare(self) -> None:
        """A RUN is near: choose a backend, and let it start what it can."""
        if self._found is None or self._found.done:
            self._job.nursery.start_soon(self._prepare)

    async def chosen(self) -> Backend:
        """The backend. Raises `IsolationError` if what was asked for is not possible, or nothing is."""
        if self._found is None:
            job = self._job
            self._found = job.ledger.spawn(job.nursery, "choose a backend", self._choose)
        return await self._found.wait()

    async def aclose(self) -> None:
        """Close the backend if one was chosen; the nursery has ended by then."""
        if self._found is not None and self._found.done and not self._found.failed:
            await self._found.value_nowait().aclose()

    async def _prepare(self) -> None:
        """Speculative: what goes wrong is raised where the backend is needed."""
        with contextlib.suppress(AsyncbuildError):
            (await self.chosen()).prepare()

    async def _choose(self) -> Backend:
        from asyncbuild.build.backends import choose_backend  # noqa: PLC0415 - see above

        return await choose_backend(self._job, self._options)
