"""WWW-Authenticate: what a server asks for before it answers. Pure.

Rules (RFC 9110, 11.3 and 11.6.1):

1. A header may hold several challenges, and a response several headers.
2. A challenge is a scheme, then either a token68 or parameters separated by commas; a comma also
   separates challenges: a name that is followed by ``=`` belongs to the challenge before it.
3. A parameter's value is a token or a quoted string with backslash escapes. Registries also send
   unquoted URLs, which the grammar forbids: every character but a comma, a quote or a space is taken.
4. What cannot be read ends the reading; the challenges before it count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from asyncbuild.records import dataclass, field

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SEPARATOR = re.compile(r"[\s,]*")
_PARAMETER = re.compile(
    rf"(?P<name>{_WORD})[ \t]*=[ \t]*"
    r'(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]+))(?=[\s,]|\Z)',
    re.DOTALL,
)
_SCHEME = re.compile(rf"(?P<scheme>{_WORD})(?=[\s,]|\Z)")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|\Z)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in: the scheme in lower case, its parameters (names in lower case) or its token68."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    token68: str = ""

    def get(self, name: str) -> str:
        """A parameter's value, ``""`` if it is absent."""
        return self.parameters.get(name, "")


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all WWW-Authenticate header values of one response, in their order."""
    return tuple(challenge for header in headers for challenge in _parse_one(header))


def _parse_one(text: str) -> Iterator[Challenge]:
    place = _skip(text, 0)
    while match := _SCHEME.match(text, place):
        scheme = match["scheme"].lower()
        place = _skip(text, match.end())
        token68 = _TOKEN68.match(text, place)
        if token68 and _SCHEME.match(text, place) is None:
            yield Challenge(scheme, token68=token68[0].strip())
            place = _skip(text, token68.end())
            continue
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(text, place):
            parameters.setdefault(found["name"].lower(), _value(found))
            place = _skip(text, found.end())
        yield Challenge(scheme, parameters)


def _skip(text: str, place: int) -> int:
    match = _SEPARATOR.match(text, place)
    return match.end() if match else place


def _value(found: re.Match[str]) -> str:
    if found["quoted"] is not None:
        return re.sub(r"\\(.)", r"\1", found["quoted"], flags=re.DOTALL)
    return str(found["bare"])
