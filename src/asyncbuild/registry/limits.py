"""Rate limits that a registry tells in its answers (Docker Hub, "Pull usage and limits"). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from asyncbuild.records import dataclass

_FEW = 5


@dataclass(frozen=True, slots=True)
class RateLimit:
    """``remaining`` of ``limit`` pulls are left in a window of ``seconds`` (0: not said)."""

    limit: int
    remaining: int
    seconds: int = 0

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> Self | None:
        """From ``ratelimit-limit: 100;w=21600`` and ``ratelimit-remaining: 76;w=21600``; None without.

        ``headers`` finds names in any case or holds them in lower case.
        """
        limit, window = _parts(headers.get("ratelimit-limit", ""))
        remaining, _ = _parts(headers.get("ratelimit-remaining", ""))
        return None if limit is None or remaining is None else cls(limit, remaining, window or 0)

    @property
    def is_near(self) -> bool:
        """Whether little is left."""
        return self.remaining <= max(_FEW, self.limit // 10)

    def __str__(self) -> str:
        text = f"{self.remaining} of {self.limit} pulls are left"
        if self.seconds >= 3600:
            return f"{text} in {self.seconds / 3600:g} h"
        return f"{text} in {self.seconds} s" if self.seconds else text


def _parts(text: str) -> tuple[int | None, int | None]:
    number, _, rest = text.partition(";")
    window = rest.strip().removeprefix("w=")
    return _number(number.strip()), _number(window)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
