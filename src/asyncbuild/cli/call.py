"""``asyncbuild build --call``: questions about a build instead of the build itself, as buildx asks them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio

from asyncbuild.cli.bases import base_configs
from asyncbuild.cli.check import exit_code, make_report, plan_of, surroundings
from asyncbuild.cli.findings import Report
from asyncbuild.cli.inputs import Inputs
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.errors import SourceLocation, UsageError
from asyncbuild.image.config import ImageConfig
from asyncbuild.plan.checks import BaseFacts, check_options, check_plan
from asyncbuild.plan.contexts import LAYOUT_HOST
from asyncbuild.plan.nouns import ImageRef, Plan, PlanStage
from asyncbuild.plan.outline import Outline, Parameter, Target, list_targets, outline_of
from asyncbuild.plan.planner import with_triggers
from asyncbuild.records import dataclass, replace
from asyncbuild.registry.registries import RegistrySettings

_NAMES = ("check", "outline", "targets")
_FORMATS = {
    "check": ("text", "json", "sarif"),
    "outline": ("text", "json"),
    "targets": ("text", "json"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """A question and the form of its answer."""

    name: str
    form: str = "text"

    @classmethod
    def parse(cls, text: str) -> Call | None:
        """``check``, ``targets,format=json``, …; None for ``build``. Raises UsageError."""
        name, *fields = text.split(",")
        name = "check" if name == "lint" else name
        if name == "build" and not fields:
            return None
        if name not in _NAMES:
            hint = did_you_mean(name, _NAMES) or f"it is build, {', '.join(_NAMES)}"
            raise UsageError(f"--call {text}: there is no such question", hint=hint)
        call = cls(name)
        for field in fields:
            key, _, value = field.partition("=")
            if key != "format" or value not in _FORMATS[name]:
                hint = f"write {name},format={'|'.join(_FORMATS[name])}"
                raise UsageError(f"--call {text}: {field} is not understood", hint=hint)
            call = replace(call, form=value)
        return call


def answer(call: Call, inputs: Inputs, options: argparse.Namespace) -> int:
    """Print the answer; the exit code is `asyncbuild check`'s, or 0."""
    if call.name == "check":
        settings = read_registries(options, os.environ)
        report = trio.run(_check, inputs, options.target, settings)
        sys.stdout.write(report.render(call.form))
        return exit_code(report)
    dockerfile = parse_dockerfile(inputs.dockerfile, str(inputs.dockerfile_path))
    if call.name == "targets":
        targets = list_targets(dockerfile)
        text = _json({"targets": [_target(item) for item in targets]})
        sys.stdout.write(text if call.form == "json" else _targets_text(targets))
    else:
        plan = trio.run(_with_layouts, plan_of(inputs, dockerfile, options.target), inputs)
        outline = outline_of(dockerfile, plan)
        text = _json(_outline(outline))
        sys.stdout.write(text if call.form == "json" else _outline_text(outline))
    return 0


async def _check(inputs: Inputs, target: str | None, settings: RegistrySettings) -> Report:
    """As `asyncbuild check`, with the configurations of the base images."""
    report = make_report(inputs, target, advice=False)
    if report.error is not None:
        return report
    dockerfile = parse_dockerfile(inputs.dockerfile, report.file)
    plan = plan_of(inputs, dockerfile, target)
    known = surroundings(inputs, every_stage=target is None)
    stages = plan.all_stages if known.every_stage else plan.stages
    images = {stage.base for stage in stages if isinstance(stage.base, ImageRef)}
    configs = await base_configs(images, settings, _layouts(inputs))
    plan = _with_triggers(plan, stages, configs)
    bases = {ref: BaseFacts.of(config) for ref, config in configs.items()}
    known = replace(known, bases=bases)
    notices = check_plan(dockerfile, plan, known, check_options(dockerfile, inputs.build_args))
    return replace(report, notices=notices)


async def _with_layouts(plan: Plan, inputs: Inputs) -> Plan:
    """The plan with the ONBUILD triggers of bases that are in OCI layouts: no registry is asked."""
    layouts = _layouts(inputs)
    images = {stage.base for stage in plan.stages if isinstance(stage.base, ImageRef)}
    here = [image for image in images if image.reference.registry == LAYOUT_HOST]
    configs = await base_configs(here, RegistrySettings(), layouts) if here else {}
    return _with_triggers(plan, plan.stages, configs)


def _layouts(inputs: Inputs) -> Mapping[str, str]:
    return inputs.contexts.layouts


def _with_triggers(
    plan: Plan, stages: Iterable[PlanStage], configs: Mapping[ImageRef, ImageConfig]
) -> Plan:
    for stage in stages:
        config = configs.get(stage.base) if isinstance(stage.base, ImageRef) else None
        if config is not None and config.runtime.on_build:
            plan = with_triggers(plan, stage.index, config.runtime.on_build)
    return plan


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _place(location: SourceLocation) -> dict[str, Any]:
    return {
        "ranges": [{"start": {"line": location.line}, "end": {"line": location.end_line}}],
    }


def _without_empty(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if item}


def _target(target: Target) -> dict[str, Any]:
    return _without_empty(
        {
            "name": target.name,
            "default": target.default,
            "description": target.description,
            "base": target.base,
            "platform": target.platform,
            "location": _place(target.location),
        }
    )


def _outline(outline: Outline) -> dict[str, Any]:
    def listed(items: Iterable[Parameter], name: str = "name") -> list[dict[str, Any]]:
        return [
            {name: item.name}
            | _without_empty(
                {
                    "description": item.description,
                    "value": item.value,
                    "required": item.required,
                    "location": _place(item.location),
                }
            )
            for item in items
        ]

    return _without_empty(
        {
            "name": outline.name,
            "description": outline.description,
            "args": listed(outline.arguments),
            "secrets": listed(outline.secrets),
            "ssh": listed(outline.ssh),
            "cache": listed(outline.caches, "ID"),
        }
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def _targets_text(targets: Sequence[Target]) -> str:
    rows = [("TARGET", "DESCRIPTION")]
    for number, target in enumerate(targets):
        name = target.name or str(number)
        rows.append((f"{name} (default)" if target.default else name, target.description))
    return _table(rows)


def _outline_text(outline: Outline) -> str:
    head = [("TARGET:", outline.name or "(default)")]
    head += [("DESCRIPTION:", outline.description)] if outline.description else []
    tables = [_table(head)]
    if outline.arguments:
        rows = [(item.name, item.value, item.description) for item in outline.arguments]
        tables.append(_table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows]))
    for title, items in (("SECRET", outline.secrets), ("SSH", outline.ssh)):
        if items:
            asked = [(item.name, "true" if item.required else "") for item in items]
            tables.append(_table([(title, "REQUIRED"), *asked]))
    if outline.caches:
        tables.append(_table([("CACHE",), *((item.name,) for item in outline.caches)]))
    return "\n".join(tables)
