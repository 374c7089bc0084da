"""``asyncbuild check``: what the build checks say of a Dockerfile; nothing is fetched or executed.

``asyncbuild build --check`` says the same and asks the registries for what only they know.
"""

from __future__ import annotations

import argparse
import os
import sys

from asyncbuild.cli.findings import Report
from asyncbuild.cli.inputs import Inputs, read_inputs
from asyncbuild.context.ignorefile import IgnoreFile, load_ignore_file
from asyncbuild.dockerfile.instructions import Dockerfile
from asyncbuild.dockerfile.lint import Findings, check_file
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError
from asyncbuild.plan.checks import Surroundings, check_options, check_plan
from asyncbuild.plan.nouns import Plan
from asyncbuild.plan.planner import make_plan

FOUND = 1
"""The exit code when there are findings."""


def check(options: argparse.Namespace) -> int:
    """Print the findings; 0 if there are none, 1 if there are, 65 if the Dockerfile is wrong."""
    inputs = read_inputs(options)
    report = make_report(inputs, options.target, advice=options.advice)
    sys.stdout.write(report.render(options.format))
    return exit_code(report)


def exit_code(report: Report) -> int:
    """What a command ends with that printed ``report``."""
    if report.error is not None:
        return report.error.exit_code
    return FOUND if report.notices else 0


def make_report(inputs: Inputs, target: str | None, *, advice: bool) -> Report:
    """Everything that can be said without a registry. Raises UsageError."""
    file = str(inputs.dockerfile_path)
    try:
        dockerfile = parse_dockerfile(inputs.dockerfile, file)
    except DockerfileError as error:
        return Report(file, inputs.dockerfile, (), error)
    options = check_options(dockerfile, inputs.build_args)
    options = options.with_advice() if advice else options
    try:
        plan = plan_of(inputs, dockerfile, target)
    except DockerfileError as error:
        findings = Findings(options)
        check_file(dockerfile, findings)
        return Report(file, inputs.dockerfile, findings.notices, error)
    known = surroundings(inputs, every_stage=target is None)
    return Report(file, inputs.dockerfile, check_plan(dockerfile, plan, known, options))


def plan_of(inputs: Inputs, dockerfile: Dockerfile, target: str | None) -> Plan:
    """The plan of a build with these inputs. Raises DockerfileError and UsageError."""
    return make_plan(dockerfile, inputs.plan_request(target))


def surroundings(inputs: Inputs, *, every_stage: bool) -> Surroundings:
    """What the context says: its ignore file, and what lies at its top."""
    ignore = IgnoreFile().patterns
    if not inputs.context_is_remote:
        ignore = load_ignore_file(inputs.context, inputs.dockerfile_path).patterns
    names = frozenset(os.listdir(inputs.context))
    return Surroundings(plain=True, ignore=ignore, names=names, every_stage=every_stage)
