"""Which build checks run: ``# check=skip=A,B;experimental=C;error=true``, as BuildKit reads it.

1. The directive stands at the top of the file; the build argument BUILDKIT_DOCKERFILE_CHECK replaces it.
2. A comment ``# check=skip=…`` above an instruction holds for that instruction alone. The first such
   comment counts, and one that cannot be read is a plain comment.
3. A value ends at its first blank: what follows is a remark.
4. ``skip=all`` leaves rules that ``experimental`` names on, except in a comment above an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from asyncbuild.dockerfile.lint_rules import RULES, Rule
from asyncbuild.dockerfile.quantities import parse_boolean
from asyncbuild.dockerfile.source import Problem
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.records import dataclass, replace

ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument of rule 1."""

_KEYS = ("skip", "experimental", "error")
_COMMENT = re.compile(r"check\s*=\s*(\S+)", re.ASCII | re.IGNORECASE)
_ALL = "all"


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """``skip`` and ``experimental`` are names of rules, or ``all``; ``error`` makes findings an error."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    @classmethod
    def parse(cls, text: str) -> CheckOptions:
        """Read a directive's value; raises `Problem`."""
        options = cls()
        text = text.strip().partition(" ")[0]
        for part in text.split(";", 2) if text else ():
            key, equals, value = part.partition("=")
            key = key.strip()
            if not equals or key not in _KEYS:
                hint = did_you_mean(key, _KEYS) or f"write {', '.join(f'{k}=…' for k in _KEYS)}"
                raise Problem(f"{part!r} is not an option of build checks", hint=hint, near=part)
            if key == "error":
                options = replace(options, error=parse_boolean(value.strip()))
            else:
                names = frozenset(name.strip() for name in value.split(",")) - {""}
                options = (
                    replace(options, skip=names)
                    if key == "skip"
                    else replace(options, experimental=names)
                )
        return options

    def at(self, comments: Iterable[str]) -> CheckOptions:
        """The options for an instruction that has these ``comments`` above it (rule 2)."""
        for comment in comments:
            match = _COMMENT.match(comment)
            if match is None:
                continue
            try:
                local = CheckOptions.parse(match[1])
            except Problem:
                return self
            asked = frozenset() if _ALL in local.skip else self.experimental
            return replace(
                self, skip=self.skip | local.skip, experimental=asked | local.experimental
            )
        return self

    def wants(self, rule: Rule) -> bool:
        """Whether a finding of ``rule`` is reported."""
        if rule.optional:
            asked = _ALL in self.experimental or rule.name in self.experimental
            return asked and rule.name not in self.skip
        return _ALL not in self.skip and rule.name not in self.skip

    def with_advice(self) -> CheckOptions:
        """The same with every optional rule on."""
        return replace(self, experimental=self.experimental | {_ALL})

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names that no rule has."""
        return tuple(sorted((self.skip | self.experimental) - RULES.keys() - {_ALL}))
