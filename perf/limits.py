"""What physics and one CPU allow for a job: the figure beside every measured one.

``limit = round trips x RTT + bytes / bandwidth + RUN + CPU / cores``, each part on its own in `Limit`.
The sum is what issue 3 asks to be compared with. ``overlapped`` lets bytes and CPU run at once, as they
do in a build that streams: no builder can be below it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from perf.bases import BaseLayer
from perf.farsite import Link
from perf.jobs import Job

#: Rates of this kind of machine, one core, from PERFORMANCE.md ("CPU and disk"): bytes or files a second.
HASH = 1180e6
INFLATE = 608e6
DEFLATE = 350e6
UNPACK_FILES = 33_000
PACK_FILES = 38_000


@dataclass(frozen=True, slots=True)
class Limit:
    """The parts of a limit, in seconds."""

    chain: float
    transfer: float
    run: float
    cpu: float

    @property
    def total(self) -> float:
        """All parts, one after the other."""
        return self.chain + self.transfer + self.run + self.cpu

    @property
    def overlapped(self) -> float:
        """Bytes and CPU at once."""
        return self.chain + self.run + max(self.transfer, self.cpu)


def limit(
    job: Job, link: Link, bases: dict[str, tuple[BaseLayer, ...]], cores: int | None = None
) -> Limit:
    """The limit of a cold build of ``job`` over ``link``.

    The link is full duplex: of the bytes down and the bytes up the larger counts. A layer that two
    bases share is fetched and unpacked once. One blob goes up over one connection, whoever sends it: the
    distribution specification takes an upload's chunks in order only.
    """
    layers = {layer.digest: layer for name in job.work.pulls for layer in bases[name]}.values()
    down = sum(layer.size for layer in layers)
    up = job.work.new_compressed
    unpacked = sum(layer.unpacked for layer in layers)
    pull = down / HASH + unpacked / INFLATE + unpacked / HASH
    pull += sum(layer.entries for layer in layers) / UNPACK_FILES
    push = (
        job.work.new_bytes * (1 / HASH + 1 / DEFLATE) + job.work.new_files / PACK_FILES + up / HASH
    )
    return Limit(
        chain=job.work.round_trips * link.rtt,
        transfer=0.0 if link.is_direct else _transfer(link, down, up, job.work.largest),
        run=job.work.run_seconds,
        cpu=(pull + push) / (cores or os.cpu_count() or 1),
    )


def _transfer(link: Link, down: int, up: int, largest: int) -> float:
    """One connection has no more than a window's bytes in flight, so it moves no more in a round trip."""
    one = min(link.bandwidth, link.per_connection or link.bandwidth, link.window / link.rtt)
    alone = largest / one
    return max(down / link.bandwidth, up / link.bandwidth, alone)
