"""The far link's log: which requests a connection carried, and when, as its near end sees them. No I/O
but a sink.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import IO

from asyncbuild.testing.httpscan import Body, Framing, Head, Part, response_framing


@dataclass(slots=True)
class Exchange:
    """One request and its response as the near end sees them; times on trio's clock, sizes in bytes."""

    method: str
    target: str
    start: float
    sent: float | None = None
    status: int | None = None
    first_byte: float | None = None
    end: float | None = None
    up: int = 0
    down: int = 0


class Log:
    """JSON lines, one for each request and one for each connection."""

    def __init__(self, sink: IO[str], epoch: float = 0.0) -> None:
        self._sink = sink
        self._epoch = epoch

    def _time(self, at: float | None) -> float | None:
        return None if at is None else round(at + self._epoch, 6)

    def exchange(self, connection: Connection, done: Exchange) -> None:
        """Note a request that was answered, or that its connection's end has cut off (no status or no
        end).
        """
        record = {
            "listener": connection.listener,
            "connection": connection.number,
            "method": done.method,
            "path": done.target,
            "status": done.status,
            "start": self._time(done.start),
            "sent": self._time(done.sent),
            "first_byte": self._time(done.first_byte),
            "end": self._time(done.end),
            "up": done.up,
            "down": done.down,
        }
        self._sink.write(json.dumps(record) + "\n")

    def connection(self, connection: Connection, closed: float) -> None:
        """Note a connection that has ended."""
        record = {
            "listener": connection.listener,
            "connection": connection.number,
            "opened": self._time(connection.opened),
            "closed": self._time(closed),
        }
        self._sink.write(json.dumps(record) + "\n")


@dataclass(slots=True)
class Connection:
    """One relayed connection: its exchanges in order, oldest first."""

    listener: str
    number: int
    log: Log
    opened: float
    open_exchanges: deque[Exchange] = field(default_factory=deque)

    def request(self, part: Part, at: float) -> None:
        """Note a part of a request that left the near end at ``at``."""
        if isinstance(part, Head):
            self.open_exchanges.append(Exchange(part.words[0], part.words[1], at, up=len(part.raw)))
        elif self.open_exchanges and isinstance(part, Body):
            self.open_exchanges[-1].up += len(part.raw)
        elif self.open_exchanges:
            self.open_exchanges[-1].sent = at

    def response_framing(self, head: Head) -> Framing:
        """How the response to the oldest open request ends."""
        return response_framing(
            head, self.open_exchanges[0].method if self.open_exchanges else "GET"
        )

    def response(self, part: Part, first: float, last: float) -> None:
        """Note a part of a response whose bytes reach the near end from ``first`` to ``last``."""
        if not self.open_exchanges:
            return
        exchange = self.open_exchanges[0]
        if isinstance(part, Head):
            exchange.status = part.status
            exchange.first_byte = first
            exchange.down += len(part.raw)
        elif isinstance(part, Body):
            exchange.down += len(part.raw)
        elif exchange.status is not None and exchange.status >= 200:
            exchange.end = last
            self.log.exchange(self, self.open_exchanges.popleft())

    def close(self, at: float) -> None:
        """The connection ended at ``at``: what is open was cut off."""
        for exchange in self.open_exchanges:
            self.log.exchange(self, exchange)
        self.open_exchanges.clear()
        self.log.connection(self, at)
