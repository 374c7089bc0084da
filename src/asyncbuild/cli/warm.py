"""``asyncbuild warm``: base images into a directory, where ``build --cache-dir`` finds them."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.build.warming import WarmedImage, Warming, warm_images
from asyncbuild.cache.images import ImageDirectory
from asyncbuild.cli.cache_options import duration
from asyncbuild.cli.inputs import build_arguments, read_dockerfile
from asyncbuild.cli.interrupt import interruptible
from asyncbuild.cli.kaniko_fetch import fetch_file
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.cli.transferring import platforms, reference_of
from asyncbuild.cli.verify_options import read_verification
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.dockerfile.remote import WebFile
from asyncbuild.errors import UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.plan.planner import PlanRequest, make_plan, planned_images
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.report.choose import ProgressMode, make_reporter
from asyncbuild.report.escape import printable
from asyncbuild.report.events import Reporter

_TICK_SECONDS = 0.1

Image = tuple[Reference, Platform]


def warm(options: argparse.Namespace) -> int:
    """Fetch the images that ``--image`` and ``--dockerfile`` name; prints each with its digest."""
    here = Platform.of_machine(platform.machine())
    wanted = platforms(options.platform) or (here,)
    named = [reference_of(text, "--image: ") for text in options.image]
    images = [(reference, form) for reference in named for form in wanted]
    arguments = build_arguments(options.build_arg, os.environ)
    for file in options.dockerfile:
        images += images_of_file(file, arguments, wanted)
    if not images:
        raise UsageError("name at least one --image, or a --dockerfile with some")
    settings = read_registries(options, os.environ)
    mode = ProgressMode.parse(options.progress)
    reporter = make_reporter(mode, sys.stderr, os.environ, time.monotonic)
    ttl = duration(options.cache_ttl) if options.cache_ttl else None
    verification = read_verification(options)
    warming = Warming(images, Path(options.directory), options.force, ttl, verification)
    return run_warming(warming, settings, reporter)


def run_warming(warming: Warming, settings: RegistrySettings, reporter: Reporter) -> int:
    """Do it, with progress; prints each image with its digest."""
    try:
        found = trio.run(_run, warming, settings, reporter)
    finally:
        reporter.close()
    for line in dict.fromkeys(f"{image.reference} {image.digest}\n" for image in found):
        sys.stdout.write(line)
    if warming.ttl is not None:
        now = time.time()
        for image in ImageDirectory(warming.directory).prune(now - warming.ttl, now):
            days = (now - image.since) / 86400
            sys.stderr.write(f"removed: {printable(image.name)}, warmed {days:.1f} days ago\n")
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
            found = await warm_images(warming, settings, reporter)
            nursery.cancel_scope.cancel()
    return found


def images_of_file(
    place: str, arguments: Mapping[str, str], wanted: Sequence[Platform]
) -> list[Image]:
    """Every image that the Dockerfile at ``place`` names, which is a file or an http or https URL."""
    if Path(place).exists() or not place.startswith(("http://", "https://")):
        return named_images(Path(place), arguments, wanted)
    with TemporaryDirectory() as directory:
        file = Path(directory) / "Dockerfile"
        fetch_file(WebFile(place), file)
        return named_images(file, arguments, wanted)


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
