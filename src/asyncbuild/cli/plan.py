"""``asyncbuild plan``: what a build would do, printed."""

from __future__ import annotations

import argparse
import sys

from asyncbuild.cli.inputs import read_inputs
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.plan.planner import make_plan
from asyncbuild.plan.render import render


def plan(options: argparse.Namespace) -> int:
    """Print the plan of a build; nothing is executed, and nothing fetched unless the cache is asked."""
    if options.cache:
        from asyncbuild.cli.cached_plan import cached_plan  # noqa: PLC0415 - it imports the build

        return cached_plan(options)
    inputs = read_inputs(options)
    dockerfile = parse_dockerfile(inputs.dockerfile, str(inputs.dockerfile_path))
    sys.stdout.write(render(make_plan(dockerfile, inputs.plan_request(options.target))))
    return 0
