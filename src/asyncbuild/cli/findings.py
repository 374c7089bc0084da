"""What the build checks found, as text for people, JSON as BuildKit prints it, or SARIF 2.1.0."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from asyncbuild import __version__
from asyncbuild.dockerfile.lint_rules import RULES, Rule
from asyncbuild.dockerfile.source import Notice
from asyncbuild.errors import DockerfileError, SourceLocation
from asyncbuild.records import dataclass

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True, slots=True)
class Report:
    """The findings on one Dockerfile, and the error that ended the look at it, if one did."""

    file: str
    text: bytes
    notices: Sequence[Notice]
    error: DockerfileError | None = None

    def render(self, form: str) -> str:
        """The report in the form ``text``, ``json`` or ``sarif``, with a newline at its end."""
        if form == "text":
            return self._text()
        value = self._sarif() if form == "sarif" else self._json()
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"

    def _text(self) -> str:
        pieces = [_finding(notice, self.file) for notice in self.notices]
        if self.error is not None:
            pieces.append(f"error: {self.error.render()}\n")
        count = len(self.notices)
        found = f"{count} finding{'' if count == 1 else 's'}" if count else "no findings"
        return "\n".join([*pieces, f"{self.file}: {found}\n"])

    def _json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "warnings": [_warning(notice) for notice in self.notices],
            "sources": [{"filename": self.file, "data": base64.b64encode(self.text).decode()}],
        }
        if self.error is not None:
            location = _json_location(self.error.location)
            value["buildError"] = {"message": self.error.message, "location": location}
        return value

    def _sarif(self) -> dict[str, Any]:
        used = list(dict.fromkeys(notice.rule for notice in self.notices))
        results = [_result(notice, used, self.file) for notice in self.notices]
        if self.error is not None:
            message, place = self.error.message, self.error.location
            result = {"ruleId": "DockerfileError", "level": "error", "message": {"text": message}}
            results.append(result | {"locations": _sarif_locations(place, self.file)})
        driver = {
            "name": "asyncbuild",
            "version": __version__,
            "rules": [_sarif_rule(RULES[name]) for name in used],
        }
        run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
        return {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def _finding(notice: Notice, file: str) -> str:
    rule = RULES[notice.rule]
    lines = [f"{notice.location or file}: {notice.message} ({notice.rule})"]
    if notice.location is not None and notice.location.excerpt:
        lines.append(notice.location.render())
    return "\n".join([*lines, f"  do: {rule.advice}", f"  see: {rule.url}", ""])


def _warning(notice: Notice) -> dict[str, Any]:
    rule = RULES[notice.rule]
    return {
        "ruleName": rule.name,
        "description": rule.summary,
        "url": rule.url,
        "detail": notice.message,
        "advice": rule.advice,
        "location": _json_location(notice.location),
    }


def _json_location(place: SourceLocation | None) -> dict[str, Any]:
    if place is None:
        return {"sourceIndex": 0, "ranges": []}
    start = {"line": place.line, "character": place.column - 1}
    return {"sourceIndex": 0, "ranges": [{"start": start, "end": {"line": place.end_line}}]}


def _result(notice: Notice, used: list[str], file: str) -> dict[str, Any]:
    rule = RULES[notice.rule]
    return {
        "ruleId": notice.rule,
        "ruleIndex": used.index(notice.rule),
        "level": "note" if rule.optional else "warning",
        "message": {"text": f"{notice.message}. {rule.advice}"},
        "locations": _sarif_locations(notice.location, file),
    }


def _sarif_locations(place: SourceLocation | None, file: str) -> list[dict[str, Any]]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": file}}
    if place is not None:
        physical["region"] = {
            "startLine": max(1, place.line),
            "startColumn": place.column,
            "endLine": max(1, place.end_line),
            "snippet": {"text": "\n".join(place.excerpt)},
        }
    return [{"physicalLocation": physical}]


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.name,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "help": {"text": f"{rule.advice} See {rule.url}."},
        "defaultConfiguration": {"level": "note" if rule.optional else "warning"},
        "properties": {"tags": ["asyncbuild" if rule.ours else "buildkit"]},
    }
