"""When to ask again. Pure: chance and time come in as arguments.

Two tables decide. An answer with one of `TEMPORARY_STATUSES` may be another one later; every failure to
get an answer at all may be temporary too, unless the network says that it is not (`Refusal.final`).
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from asyncbuild.records import dataclass

TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 521, 522, 523, 524})
"""RFC 9110 and RFC 6585; 521 to 524 are Cloudflare's, which stands before large registries."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is.

    ``attempts`` counts the first try too. The pause before try n+1 is drawn from the upper half of
    ``base * 2**(n-1)`` seconds, at most ``longest``. A Retry-After of up to ``longest_wish`` seconds is
    obeyed; a longer one ends the trying at once. ``in_all`` is how many tries more all requests of a build
    may have together: beyond it something is wrong that patience does not mend.
    """

    attempts: int = 5
    base: float = 0.3
    longest: float = 8.0
    longest_wish: float = 30.0
    in_all: int = 200

    def pause(self, failures: int, chance: float, wish: float | None = None) -> float | None:
        """Seconds to wait after ``failures`` tries, or None to give up.

        ``chance`` is in [0, 1); ``wish`` is what the server asked for, in seconds.
        """
        if failures >= self.attempts:
            return None
        if wish is not None:
            return wish + chance * self.base if wish <= self.longest_wish else None
        ceiling = min(self.longest, self.base * 2.0 ** (failures - 1))
        return ceiling * (0.5 + chance / 2)


class RetryBudget:
    """What is left of `RetryPolicy.in_all`; shared by all hosts of a build."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.left = policy.in_all

    def spend(self) -> bool:
        """Take one try; False if there is none left."""
        self.left -= 1
        return self.left >= 0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that Retry-After asks for; a date counts from the answer's own Date header.

    ``headers`` finds names in any case or holds them in lower case.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        then = parsedate_to_datetime(text)
        now = parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return None
