"""Faults by name, and scripts of them as JSON: what a registry double plays, as data.

A script is a list of objects, one for each rule::

    [{"fault": "reset-in-the-middle", "method": "PUT", "path": "/blobs/uploads/", "nth": 2},
     {"fault": "503", "method": "GET", "path": "/manifests/", "times": null}]

``path`` is a regular expression; ``nth`` and ``times`` are as in `Rule` (null: always).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from asyncbuild.testing.faults import (
    Action,
    Corrupt,
    Deny,
    Drop,
    DropAnswer,
    DropUpload,
    Garble,
    Hang,
    Refuse,
    Respond,
    Rule,
    Shorten,
    WithHeaders,
    WrongLength,
)

_CHALLENGE = {"www-authenticate": 'Basic realm="the double"'}
_NO_DIGEST = "sha256:" + 64 * "0"
_MIDDLE = 10
_SENDING = ("PUT", "PATCH")


def _middle(method: str) -> Action:
    return DropUpload(_MIDDLE) if method in _SENDING else Drop(_MIDDLE)


def _wrong_digest(method: str) -> Action:
    sent = WithHeaders({"docker-content-digest": _NO_DIGEST})
    return Corrupt(_MIDDLE) if method == "GET" else sent


def _always(action: Action) -> Callable[[str], Action]:
    return lambda _method: action


NAMED: Mapping[str, tuple[Callable[[str], Action], int | None]] = MappingProxyType(
    {
        "refused": (_always(Refuse()), 1),
        "reset-before": (_always(Drop()), 1),
        "reset-after": (_always(DropAnswer()), 1),
        "reset-in-the-middle": (_middle, 1),
        "truncated": (_always(Shorten(_MIDDLE)), 1),
        "wrong-digest": (_wrong_digest, 1),
        "wrong-size": (_always(WrongLength(7)), 1),
        "401-once": (_always(Deny()), 1),
        "401-always": (_always(Respond(401, headers=_CHALLENGE)), None),
        "403": (_always(Respond(403)), None),
        "404": (_always(Respond(404)), 1),
        "416": (_always(Respond(416)), 1),
        "429": (_always(Respond(429, headers={"retry-after": "2"})), 1),
        "500": (_always(Respond(500)), 2),
        "502": (_always(Respond(502, b"<html>bad gateway</html>")), 1),
        "503": (_always(Respond(503, headers={"retry-after": "1"})), 2),
        "503-always": (_always(Respond(503)), None),
        "hang": (_always(Hang()), 1),
        "hang-in-the-middle": (_always(Hang(after=_MIDDLE)), 1),
        "trickle": (_always(Hang(after=_MIDDLE, trickle=20)), 1),
        "garbage": (_always(Garble()), 1),
        "page": (_always(Respond(200, b"<html>log in to the hotel's network</html>")), 1),
    }
)
"""What happens for a method, and how often (None: from then on always)."""


def named_rule(fault: str, method: str, path: str, nth: int = 1) -> Rule:
    """The rule of a fault's name."""
    make, times = NAMED[fault]
    return Rule(make(method), method, path, nth, times)


def parse_script(text: str) -> tuple[Rule, ...]:
    """Read a script; ValueError, KeyError or TypeError when it is not one."""
    rules = []
    for item in json.loads(text):
        make, times = NAMED[item["fault"]]
        method = str(item.get("method", "*"))
        more = item.get("times", times)
        action = make(method)
        rules.append(Rule(action, method, str(item.get("path", "")), item.get("nth", 1), more))
    return tuple(rules)
