"""The arithmetic of a far link, without clock or socket: every time comes in as an argument, in
seconds.

What is modelled, and where it comes from:

1. A byte that enters the link arrives ``rtt / 2`` later; its acknowledgement is back after another
   ``rtt / 2``.
2. One direction of the link sends one piece after the other at ``bandwidth`` (a FIFO queue before the
   bottleneck).
3. A sender has at most ``window`` bytes in flight. Its window starts at ten segments of 1,460 bytes
   (RFC 6928) and grows by every acknowledged byte, so it doubles each round trip (slow start, RFC 5681
   section 3.1), up to ``window``: losses are not modelled, the receiver's window is what ends the
   growth. It grows only while the sender uses it (RFC 7661).
4. A sender that was idle longer than its retransmission time-out halves its window for each time-out
   that has passed, down to the initial one (Linux ``tcp_cwnd_restart``,
   ``net.ipv4.tcp_slow_start_after_idle``).
5. One connection sends at most ``per_connection`` bytes a second.
6. A new connection carries its first byte one round trip after it was dialled (SYN, SYN-ACK).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

INITIAL_WINDOW = 10 * 1460
#: Linux never takes less than 200 ms above the round trip as retransmission time-out (TCP_RTO_MIN).
MINIMAL_TIMEOUT = 0.2


@dataclass(frozen=True, slots=True)
class LinkShape:
    """The parameters of a link; rates in bytes a second (0: unlimited), times in seconds, windows in
    bytes.
    """

    rtt: float = 0.0
    bandwidth: float = 0.0
    per_connection: float = 0.0
    window: int = 3 * 1024 * 1024
    initial_window: int = INITIAL_WINDOW
    collapses_when_idle: bool = True

    @property
    def delay(self) -> float:
        """The way in one direction."""
        return self.rtt / 2


class Wire:
    """One direction of the whole link: whatever enters it leaves in order, at the link's bandwidth."""

    def __init__(self, bandwidth: float) -> None:
        self._per_byte = 1 / bandwidth if bandwidth else 0.0
        self._free_at = -math.inf

    def transmit(self, size: int, at: float) -> float:
        """The time at which the last of ``size`` bytes that are there at ``at`` has been put on the
        wire.
        """
        self._free_at = max(at, self._free_at) + size * self._per_byte
        return self._free_at


class Flow:
    """What one side of a connection sends: bytes in flight, and the window that limits them.

    ``opened_at`` is when the first byte may enter. Times given to one flow never run backwards.
    """

    def __init__(self, shape: LinkShape, wire: Wire, opened_at: float = -math.inf) -> None:
        self._shape = shape
        self._wire = wire
        self._opened_at = opened_at
        self._paced_until = -math.inf
        # Without delay a window grows in no time.
        self._window = min(shape.initial_window, shape.window) if shape.rtt else shape.window
        self._in_flight = 0
        self._peak = 0
        self._last_sent = -math.inf
        self._acknowledgements: deque[tuple[float, int]] = deque()

    @property
    def window(self) -> int:
        """The congestion window in bytes, as of the last time that this flow was told."""
        return self._window

    @property
    def in_flight(self) -> int:
        """Bytes sent and not known to have arrived."""
        return self._in_flight

    def opens_at(self, ready: float) -> float | None:
        """When the first of the bytes that are there at ``ready`` may enter the link.

        ``None``: when more bytes have been delivered; ask again after the next `delivered`.
        """
        at = max(ready, self._opened_at, self._paced_until)
        self._take_acknowledgements(at)
        while self._in_flight >= self._window:
            if not self._acknowledgements:
                return None
            at = max(at, self._acknowledgements[0][0])
            self._take_acknowledgements(at)
        return at

    def room(self, at: float) -> int:
        """How many bytes may enter at ``at``, which `opens_at` has given."""
        self._collapse(at)
        return self._window - self._in_flight

    def send(self, size: int, at: float) -> float:
        """Put ``size`` bytes (at most `room`) on the link; returns when the last of them arrives."""
        if not self._in_flight:
            self._peak = 0
        self._in_flight += size
        self._peak = max(self._peak, self._in_flight)
        self._last_sent = at
        sent = self._wire.transmit(size, at)
        if self._shape.per_connection:
            self._paced_until = at + size / self._shape.per_connection
            sent = max(sent, self._paced_until)
        return sent + self._shape.delay

    def delivered(self, size: int, at: float) -> None:
        """The receiver took ``size`` bytes at ``at``: their acknowledgement is on its way."""
        self._acknowledgements.append((at + self._shape.delay, size))

    def _take_acknowledgements(self, now: float) -> None:
        while self._acknowledgements and self._acknowledgements[0][0] <= now:
            _, size = self._acknowledgements.popleft()
            self._in_flight -= size
            if self._window < 2 * self._peak:
                self._window = min(self._window + size, self._shape.window)

    def _collapse(self, now: float) -> None:
        if not self._shape.collapses_when_idle or self._in_flight or not self._shape.rtt:
            return
        timeouts = (now - self._last_sent) / (self._shape.rtt + MINIMAL_TIMEOUT)
        if timeouts >= 1 and self._last_sent > -math.inf:
            halved = self._window >> min(int(timeouts), 32)
            self._window = max(halved, min(self._shape.initial_window, self._window))


def transfer(flow: Flow, delay: float, size: int, start: float, piece: int = 65536) -> float:
    """When the last of ``size`` bytes arrives that are all there at ``start`` and are read as they
    come.

    ``delay`` is the link's one way; ``flow`` is left as it is when the bytes have arrived.
    """
    at = arrival = start
    while size:
        opens = flow.opens_at(at)
        assert opens is not None, "all bytes are read as they come"
        at = opens
        count = min(flow.room(at), size, piece)
        arrival = flow.send(count, at)
        flow.delivered(count, arrival)
        size -= count
    return max(arrival, start + delay)


def fetch_seconds(shape: LinkShape, size: int, *, round_trips: int = 1) -> float:
    """How long a GET of ``size`` bytes takes on an idle link over a new connection.

    ``round_trips`` before the request can be sent: 1 for TCP, 2 with TLS 1.3.
    """
    flow = Flow(shape, Wire(shape.bandwidth))
    return round_trips * shape.rtt + transfer(flow, shape.delay, size, shape.delay)
