"""A source policy: which images, URLs and repositories a build may use, and which it uses instead. Pure.

The document is BuildKit's (sourcepolicy/pb/policy.proto, as JSON; engine.go, mutate.go)::

    {"rules": [{"action": "DENY",    "selector": {"identifier": "docker-image://*"}},
               {"action": "ALLOW",   "selector": {"identifier": "docker-image://docker.io/library/*"}},
               {"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/library/alpine:3"},
                "updates": {"identifier": "docker-image://docker.io/library/alpine:3@sha256:…"}}]}

1. Of ALLOW and DENY the last rule that matches counts; what no rule matches is allowed.
2. The first CONVERT that changes something is applied, and all rules are asked again, at most 20 times.
3. ``matchType`` is WILDCARD (the default; ``*`` is anything), EXACT or REGEX (anywhere, unless anchored).
   ``$1`` and ``${1}`` in an update are what the first ``*`` or group matched.
4. Identifiers: ``docker-image://REGISTRY/REPOSITORY:TAG[@DIGEST]``, ``https://…``, ``http://…`` for files,
   ``git://HOST/PATH`` and ``git://…#REF`` for repositories, ``local://NAME`` for contexts on this machine,
   ``oci-layout://PATH`` for image layouts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from asyncbuild.errors import SourceDenied, UsageError
from asyncbuild.records import dataclass, field

CHECKSUM = "http.checksum"
_ACTIONS = {0: "ALLOW", 1: "DENY", 2: "CONVERT"}
_MATCHES = {0: "WILDCARD", 1: "EXACT", 2: "REGEX"}
_CONDITIONS = {0: "EQUAL", 1: "NOTEQUAL", 2: "MATCHES"}
_MOST_CONVERSIONS = 20
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|(\$))")


@dataclass(frozen=True, slots=True)
class Source:
    """What a build wants to use: an identifier, and attributes such as `CHECKSUM`."""

    identifier: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Constraint:
    key: str
    value: str
    condition: str

    def holds(self, attributes: Mapping[str, str]) -> bool:
        found = attributes.get(self.key, "")
        if self.condition == "MATCHES":
            return re.search(self.value, found) is not None
        return (found == self.value) is (self.condition == "EQUAL")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a policy; an update is None for ALLOW and DENY."""

    action: str
    identifier: str
    match_type: str
    constraints: tuple[_Constraint, ...] = ()
    update: Source | None = None

    @property
    def _pattern(self) -> re.Pattern[str]:
        return _compiled(self.match_type, self.identifier)

    def matches(self, source: Source) -> bool:
        """Whether the rule is about ``source``."""
        if not all(constraint.holds(source.attributes) for constraint in self.constraints):
            return False
        same = source.identifier == self.identifier
        return same or self._pattern.search(source.identifier) is not None

    def convert(self, source: Source) -> Source:
        """What the rule makes of ``source``."""
        assert self.update is not None
        attributes = {**source.attributes, **self.update.attributes}
        wanted = self.update.identifier
        if not wanted:
            return Source(source.identifier, attributes)
        found = self._pattern.search(source.identifier)
        if self.match_type == "WILDCARD" and found is None:
            wanted = source.identifier
        elif self.match_type != "EXACT" and found is not None:
            expanded = _REFERENCE.sub(lambda name: _group(found, name), wanted)
            rest = source.identifier
            wanted = (
                expanded
                if self.match_type == "WILDCARD"
                else rest[: found.start()] + expanded + rest[found.end() :]
            )
        return Source(wanted, attributes)


@cache
def _compiled(match_type: str, identifier: str) -> re.Pattern[str]:
    if match_type == "REGEX":
        return re.compile(identifier)
    star = "(.*)" if match_type == "WILDCARD" else re.escape("*")
    return re.compile(f"^{re.escape(identifier).replace(re.escape('*'), star)}\\Z", re.DOTALL)


def _group(found: re.Match[str], name: re.Match[str]) -> str:
    if name[3]:
        return "$"
    wanted: Any = name[1] or name[2]
    try:
        return found[int(wanted) if wanted.isdigit() else wanted] or ""
    except IndexError:
        return ""


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """The rules of one policy, in their order; ``name`` is what errors call it."""

    rules: tuple[Rule, ...] = ()
    name: str = "the policy"

    @classmethod
    def parse(cls, raw: bytes, name: str) -> SourcePolicy:
        """Read a policy; `UsageError` says what is wrong with it."""
        try:
            rules = tuple(_rule(item) for item in json.loads(raw)["rules"])
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, re.error) as error:
            raise UsageError(f"{name} is no source policy: {error}") from None
        return cls(rules, name)

    def evaluate(self, source: Source) -> Source:
        """What is used where ``source`` is wanted; raises `SourceDenied`."""
        wanted = source
        for _ in range(_MOST_CONVERSIONS + 1):
            converted = self._evaluate_once(wanted)
            if converted is None:
                return wanted
            wanted = converted
        raise SourceDenied(f"{self.name} converts {source.identifier} without end")

    def _evaluate_once(self, source: Source) -> Source | None:
        denied = False
        for rule in self.rules:
            if not rule.matches(source):
                continue
            if rule.action == "CONVERT":
                converted = rule.convert(source)
                if converted != source:
                    return converted
            else:
                denied = rule.action == "DENY"
        if denied:
            raise SourceDenied(f"{self.name} does not allow {source.identifier}")
        return None


def _rule(item: Mapping[str, Any]) -> Rule:
    selector = item["selector"]
    action = _named(item.get("action", 0), _ACTIONS)
    updates = item.get("updates")
    if action == "CONVERT" and not isinstance(updates, dict):
        raise ValueError("a CONVERT without updates")
    update = None
    if action == "CONVERT" and isinstance(updates, dict):
        update = Source(str(updates.get("identifier") or ""), dict(updates.get("attrs") or {}))
    match_type = _named(selector.get("matchType", selector.get("match_type", 0)), _MATCHES)
    identifier = str(selector["identifier"])
    if match_type == "WILDCARD" and "**" in identifier:
        raise ValueError(f"{identifier!r}: ** is no wildcard")
    constraints = tuple(
        _Constraint(
            str(entry["key"]), str(entry["value"]), _named(entry.get("condition", 0), _CONDITIONS)
        )
        for entry in selector.get("constraints") or ()
    )
    for entry in constraints:
        if entry.condition == "MATCHES":
            re.compile(entry.value)
    made = Rule(action, identifier, match_type, constraints, update)
    if match_type == "REGEX":
        re.compile(identifier)
    return made


def _named(value: object, names: Mapping[int, str]) -> str:
    """An enumeration's value, by its name or by its number."""
    if isinstance(value, str) and value.upper() in names.values():
        return value.upper()
    if isinstance(value, int) and value in names:
        return names[value]
    raise ValueError(f"{value!r} is none of {', '.join(names.values())}")
