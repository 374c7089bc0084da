"""What goes wrong in a registry double, as data: rules that match requests, and what is done to them.

A rule matches by method and path; of the requests that it matches it strikes the ``nth`` (counted from 1)
and as many after it as ``times`` says. The first rule that strikes a request decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer with this instead of doing anything."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection: without an answer, or after ``after`` bytes of the answer's body."""

    after: int | None = None


@dataclass(frozen=True, slots=True)
class DropAnswer:
    """Do what is asked, then close the connection without a word of it."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Take no connection."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Take the Authorization for one that is not valid (any more)."""


@dataclass(frozen=True, slots=True)
class Garble:
    """Send these bytes, which are no HTTP, and close the connection."""

    data: bytes = b"\x15\x03\x01\x00\x02\x02\x16SSH-2.0-none\r\n\r\n"


@dataclass(frozen=True, slots=True)
class DropUpload:
    """Close the connection when ``after`` bytes of the request's body were read."""

    after: int


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer, or stop after ``after`` bytes of the answer's body; until the client goes away.

    With ``trickle`` one more byte comes each so many seconds.
    """

    after: int | None = None
    trickle: float | None = None


@dataclass(frozen=True, slots=True)
class Shorten:
    """A whole and well-formed answer whose body has only the first ``length`` bytes."""

    length: int


@dataclass(frozen=True, slots=True)
class Lengthen:
    """A whole and well-formed answer with ``extra`` after its body."""

    extra: bytes


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Flip every bit of the body's byte at ``offset``."""

    offset: int


@dataclass(frozen=True, slots=True)
class WrongLength:
    """Declare a Content-Length that is ``delta`` more than the body has."""

    delta: int


@dataclass(frozen=True, slots=True)
class WithHeaders:
    """Answer as usual, with these headers set (None: removed)."""

    headers: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait before doing anything (seconds of trio's clock)."""

    seconds: float


Action = (
    Respond
    | Drop
    | DropAnswer
    | DropUpload
    | Refuse
    | Deny
    | Garble
    | Hang
    | Shorten
    | Lengthen
    | Corrupt
    | WrongLength
    | WithHeaders
    | Delay
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Which requests are struck. ``path`` is a regular expression, searched in the path without query."""

    action: Action
    method: str = "*"
    path: str = ""
    nth: int = 1
    times: int | None = 1

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule is about such a request."""
        return self.method in ("*", method) and re.search(self.path, path) is not None


class Faults:
    """Rules, and how often each has matched."""

    def __init__(self, *rules: Rule) -> None:
        self._counts: list[tuple[Rule, int]] = [(rule, 0) for rule in rules]

    def add(self, *rules: Rule) -> None:
        """More rules, after those that are there."""
        self._counts += [(rule, 0) for rule in rules]

    def clear(self) -> None:
        """No faults any more."""
        self._counts.clear()

    def strike(self, method: str, path: str) -> Action | None:
        """Count a request; what to do to it, None for nothing."""
        struck: Action | None = None
        for place, (rule, count) in enumerate(self._counts):
            if not rule.matches(method, path):
                continue
            self._counts[place] = (rule, count + 1)
            last = None if rule.times is None else rule.nth + rule.times
            if struck is None and count + 1 >= rule.nth and (last is None or count + 1 < last):
                struck = rule.action
        return struck
