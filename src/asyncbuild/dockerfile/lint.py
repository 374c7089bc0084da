"""Build checks that need nothing but the Dockerfile: spelling, names, forms.

`check_file` is about the file as a whole, `check_stage` about one stage: a build reports only on the
stages that it needs, as BuildKit does. What needs values of variables is in plan/checks.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.lint_options import CheckOptions
from asyncbuild.dockerfile.lint_rules import RULES
from asyncbuild.dockerfile.source import Notice
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.errors import SourceLocation

_RESERVED = ("scratch", "context")
_ONCE = (i.Cmd, i.Entrypoint, i.Healthcheck)
_SECRET = re.compile(
    "(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_NO_SECRET = re.compile("(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


class Findings:
    """Collects what checks find, as far as the options want it."""

    def __init__(self, options: CheckOptions) -> None:
        self.options = options
        self.notices: list[Notice] = []

    def add(self, rule: str, message: str, at: i.Located | None = None, *near: str) -> None:
        """Report ``message`` at an instruction, where ``near`` stands in it; or for the whole build."""
        options = self.options if at is None else self.options.at(at.comments)
        if options.wants(RULES[rule]):
            place = None if at is None else at.location.at_text(*near)
            self.notices.append(Notice(rule, message, place))

    def keep(self, notice: Notice) -> None:
        """Report what another part of the reader has found."""
        if self.options.wants(RULES[notice.rule]):
            self.notices.append(notice)


def check_file(dockerfile: i.Dockerfile, findings: Findings) -> None:
    """Look at everything that concerns the file as a whole, needed stages or not."""
    for notice in dockerfile.notices:
        findings.keep(notice)
    for name in findings.options.unknown:
        hint = did_you_mean(name, RULES)
        findings.add("UnknownCheck", f"there is no check {name}" + (f" ({hint})" if hint else ""))
    _check_names(dockerfile, findings)
    _check_casing(dockerfile, findings)
    for item in _everything(dockerfile):
        if isinstance(item, i.Maintainer):
            findings.add("MaintainerDeprecated", "MAINTAINER is deprecated", item)
        if isinstance(item, i.From):
            _check_description(item, [item.name] if item.name else [], findings)
        elif isinstance(item, i.Arg):
            _check_description(item, [argument.name for argument in item.arguments], findings)


def check_stage(stage: i.Stage, findings: Findings) -> None:
    """Look at one stage, without knowing any variable's value."""
    last: dict[type, i.Instruction] = {}
    for item in stage.instructions:
        if isinstance(item, _ONCE):
            earlier = last.get(type(item))
            if earlier is not None:
                message = f"only the last {item.NAME} of a stage counts: this one does nothing"
                findings.add("MultipleInstructionsDisallowed", message, earlier)
            last[type(item)] = item
        if isinstance(item, i.Env | i.Label) and item.legacy:
            message = f"write {item.NAME} name=value, not {item.NAME} name value"
            findings.add("LegacyKeyValueFormat", message, item)
        for name in _variables(item):
            if _SECRET.search(name) and not _NO_SECRET.search(name):
                message = f"{item.NAME} {name} looks like a secret, and would stay in the image"
                findings.add("SecretsUsedInArgOrEnv", message, item, name)


def _variables(item: i.Instruction) -> tuple[str, ...]:
    if isinstance(item, i.Env):
        return tuple(pair.name for pair in item.pairs)
    return tuple(a.name for a in item.arguments) if isinstance(item, i.Arg) else ()


def _everything(dockerfile: i.Dockerfile) -> Iterator[i.From | i.Instruction]:
    yield from dockerfile.global_arguments
    for stage in dockerfile.stages:
        yield stage.from_
        yield from stage.instructions


def _check_names(dockerfile: i.Dockerfile, findings: Findings) -> None:
    seen: dict[str, SourceLocation] = {}
    for stage in dockerfile.stages:
        line = stage.from_
        if line.name is None:
            continue
        *_, mark, written = line.original.split()
        if written != written.lower():
            message = f"the stage's name {written} is not in lower case"
            findings.add("StageNameCasing", message, line, written)
        same = line.keyword.isupper() == mark.isupper() and line.keyword.islower() == mark.islower()
        if (line.keyword.isupper() or line.keyword.islower()) and not same:
            findings.add("FromAsCasing", f"{mark} is not written as {line.keyword} is", line)
        if line.name in _RESERVED:
            message = f"{line.name} has a meaning of its own: call the stage something else"
            findings.add("ReservedStageName", message, line)
        if line.name in seen:
            message = (
                f"two stages are called {line.name} (the other one in line {seen[line.name].line})"
            )
            findings.add("DuplicateStageName", message, line)
        seen[line.name] = line.location


def _check_casing(dockerfile: i.Dockerfile, findings: Findings) -> None:
    """The case of the majority is right; upper case if there is none."""
    items = [item for stage in dockerfile.stages for item in (stage.from_, *stage.instructions)]
    lower = sum(item.keyword.islower() for item in items)
    upper = sum(item.keyword.isupper() for item in items)
    for item in items:
        right = item.NAME.lower() if lower > upper else item.NAME
        if item.keyword != right:
            message = f"{item.keyword} is not written as most instructions are: {right}"
            findings.add("ConsistentInstructionCasing", message, item)


def _check_description(item: i.From | i.Arg, names: list[str], findings: Findings) -> None:
    """The last comment above a definition begins with a name that it defines."""
    if not item.comments or not names:
        return
    if item.comments[-1].split(" ")[0] not in names:
        name = names[0] if len(names) == 1 else "NAME"
        message = f"the comment above {item.NAME} is not `# {name} …`"
        findings.add("InvalidDefinitionDescription", message, item)


def description(item: i.From | i.Arg, name: str | None) -> str:
    """What the comments above a definition say of ``name``: the rest of ``# NAME what it is``."""
    mark = f"{name} "
    for comment in item.comments if name else ():
        if comment.startswith(mark):
            return comment.removeprefix(mark)
    return ""
