"""What all parts of one build share: its nursery, its tools, and its one idea of the time."""

from __future__ import annotations

import datetime as dt
from contextlib import AsyncExitStack

import trio

from asyncbuild.build.futures import Ledger
from asyncbuild.build.growing import GrowingFile
from asyncbuild.build.workers import WorkerPool
from asyncbuild.records import dataclass
from asyncbuild.registry.registries import Registries
from asyncbuild.report.events import Reporter
from asyncbuild.store.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """``created`` is the time, in whole seconds since the epoch, that everything new is given.

    It is SOURCE_DATE_EPOCH where that is set (reproducible-builds.org), else the time of the start.
    ``started`` is the start by the clock, in the same unit: the age of what is kept counts from there.
    ``closing`` is unwound after the nursery has ended. ``unpackers`` layers are unpacked at once; the pool
    has one worker more, so that packing never waits for all of them.
    """

    nursery: trio.Nursery
    ledger: Ledger
    registries: Registries
    store: Store
    workers: WorkerPool
    reporter: Reporter
    created: int
    closing: AsyncExitStack
    unpackers: int = 2
    started: int = 0

    def closed_at_end(self, file: GrowingFile) -> GrowingFile:
        """``file``, which may be read as long as the build lasts."""
        self.closing.callback(file.close)
        return file

    @property
    def created_text(self) -> str:
        """``created`` as image configurations have it."""
        return time_text(self.created)


def time_text(seconds: int) -> str:
    """Seconds since the epoch as image configurations have them (RFC 3339)."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
