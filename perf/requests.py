"""Reading the far link's log of one run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as its near end saw it; times in seconds since the command's start."""

    listener: str
    connection: int
    method: str
    path: str
    status: int | None
    start: float
    sent: float
    first_byte: float
    end: float
    up: int
    down: int


@dataclass(frozen=True, slots=True)
class Dialled:
    """One connection: when it was opened and closed, seconds since the command's start."""

    listener: str
    connection: int
    opened: float
    closed: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """All that one run said to the registry, in the order of its starts."""

    requests: tuple[Request, ...]
    connections: tuple[Dialled, ...]

    @property
    def up(self) -> int:
        """Bytes sent."""
        return sum(request.up for request in self.requests)

    @property
    def down(self) -> int:
        """Bytes received."""
        return sum(request.down for request in self.requests)


def read_log(log: Path, started: float) -> Traffic:
    """The traffic of a run that began at ``started`` (the clock of ``time.time()``)."""
    requests, connections = [], []
    for line in log.read_text().splitlines():
        record = json.loads(line)
        for name in ("start", "sent", "first_byte", "end", "opened", "closed"):
            if record.get(name) is not None:
                record[name] -= started
        if "opened" in record:
            connections.append(Dialled(**record))
            continue
        for name, earlier in (("sent", "start"), ("first_byte", "sent"), ("end", "first_byte")):
            if record[name] is None:
                record[name] = record[earlier]
        requests.append(Request(**record))
    requests.sort(key=lambda request: request.start)
    connections.sort(key=lambda connection: connection.opened)
    return Traffic(tuple(requests), tuple(connections))
