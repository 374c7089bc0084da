"""Secrets are blotted out of what a RUN prints, before anyone sees it.

A command that prints its secret would put it into the log of a CI system, into traces and into the error
that quotes its last lines. Neither BuildKit nor kaniko prevents that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = b"****"
_SHORTEST = 4
"""Bytes: what is shorter stands everywhere by chance."""
_SHORTEST_LINE = 8
"""Bytes that a line of a longer secret must have to count by itself."""


class Redactor:
    """Blots out secrets in one stream, however it is cut. Pure."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        wanted = sorted({item for secret in secrets for item in _shapes(secret)}, key=len)
        self._wanted = wanted[::-1]  # the longest first: one may hold another
        self._pattern = re.compile(b"|".join(map(re.escape, self._wanted))) if wanted else None
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be shown by now: the end is held back while it may be the beginning of a secret."""
        if self._pattern is None:
            return data
        data = self._pattern.sub(MASK, self._held + data)
        count = self._undecided(data)
        self._held = data[len(data) - count :]
        return data[: len(data) - count]

    def finish(self) -> bytes:
        """What was held back, at the end of the stream."""
        rest, self._held = self._held, b""
        return rest

    def _undecided(self, data: bytes) -> int:
        """How many bytes at the end of ``data`` are the beginning of a secret."""
        longest = len(self._wanted[0]) - 1
        for count in range(min(longest, len(data)), 0, -1):
            end = data[-count:]
            if any(item.startswith(end) for item in self._wanted):
                return count
        return 0


def _shapes(secret: bytes) -> set[bytes]:
    """What stands for a secret: itself without the blanks around it, and its longer lines."""
    whole = secret.strip()
    shapes = {line.strip() for line in whole.splitlines()}
    shapes = {line for line in shapes if len(line) >= _SHORTEST_LINE}
    return shapes | ({whole} if len(whole) >= _SHORTEST else set())
