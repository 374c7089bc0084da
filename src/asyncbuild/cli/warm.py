"""``asyncbuild warm``: base images into a directory, where ``build --cache-dir`` finds them."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.build.warming import WarmedImage, warm_images
from asyncbuild.cli.inputs import build_arguments, read_dockerfile
from asyncbuild.cli.interrupt import interruptible
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.cli.transferring import platforms, reference_of
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.plan.planner import PlanRequest, make_plan, planned_images
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.report.choose import ProgressMode, make_reporter
from asyncbuild.report.events import Reporter

_TICK_SECONDS = 0.1

Image = tuple[Reference, Platform]


@dataclass(frozen=True, slots=True)
class Warming:
    """Which images shall be in which directory; ``force`` fetches what is there, too."""

    images: Sequence[Image]
    directory: Path
    force: bool = False


def warm(options: argparse.Namespace) -> int:
    """Fetch the images that ``--image`` and ``--dockerfile`` name; prints each with its digest."""
    here = Platform.of_machine(platform.machine())
    wanted = platforms(options.platform) or (here,)
    named = [reference_of(text, "--image: ") for text in options.image]
    images = [(reference, form) for reference in named for form in wanted]
    arguments = build_arguments(options.build_arg, os.environ)
    for file in options.dockerfile:
        images += named_images(Path(file), arguments, wanted)
    if not images:
        raise UsageError("name at least one --image, or a --dockerfile with some")
    settings = read_registries(options, os.environ)
    mode = ProgressMode.parse(options.progress)
    reporter = make_reporter(mode, sys.stderr, os.environ, time.monotonic)
    warming = Warming(images, Path(options.directory), options.force)
    return run_warming(warming, settings, reporter)


def run_warming(warming: Warming, settings: RegistrySettings, reporter: Reporter) -> int:
    """Do it, with progress; prints each image with its digest."""
    try:
        found = trio.run(_run, warming, settings, reporter)
    finally:
        reporter.close()
    for line in dict.fromkeys(f"{image.reference} {image.digest}\n" for image in found):
        sys.stdout.write(line)
    return 0


async def _run(
    warming: Warming, settings: RegistrySettings, reporter: Reporter
) -> tuple[WarmedImage, ...]:
    async def tick() -> None:
        while True:
            await trio.sleep(_TICK_SECONDS)
            reporter.tick()

    with one_error():
        async with interruptible((signal.SIGINT, signal.SIGTERM)), trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            found = await warm_images(
                warming.images, warming.directory, settings, reporter, force=warming.force
            )
            nursery.cancel_scope.cancel()
    return found


def named_images(
    path: Path, arguments: Mapping[str, str], wanted: Sequence[Platform]
) -> list[Image]:
    """Every image that a Dockerfile names, in all of its stages, for each platform; stages are none."""
    dockerfile = parse_dockerfile(read_dockerfile(path), str(path))
    found = []
    for form in wanted:
        here = Platform.of_machine(platform.machine())
        plan = make_plan(dockerfile, PlanRequest(form, here, arguments))
        found += [item.image for item in planned_images(plan, plan.all_stages)]
    return list(dict.fromkeys((image.reference, image.platform) for image in found))
