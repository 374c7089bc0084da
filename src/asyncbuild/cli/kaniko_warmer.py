"""The program called as ``warmer``: base images into ``--cache-dir``, where ``executor`` finds them."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from asyncbuild.build.warming import Warming
from asyncbuild.cli import kaniko_options as wanted
from asyncbuild.cli.kaniko_flags import WARMER, Given, read_flags
from asyncbuild.cli.kaniko_registries import registry_settings
from asyncbuild.cli.warm import Image, images_of_file, run_warming
from asyncbuild.errors import UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.report.choose import make_reporter
from asyncbuild.report.events import WarningRaised


def warmer(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Fetch the images that ``--image`` and ``--dockerfile`` name; prints each with its digest."""
    given = read_flags(WARMER, words)
    if given.words:
        raise UsageError(f"unknown word {given.words[0]!r}")
    images = images_of(given, environ)
    settings = registry_settings(given, (), environ)
    reporter = make_reporter(wanted.progress(given), sys.stderr, environ, time.monotonic)
    if given.without_meaning:
        flags = ", ".join(given.without_meaning)
        reporter.emit(WarningRaised(f"without meaning here: {flags}"))
    warming = Warming(images, Path(given.text("cache-dir")), force=given.on("force"))
    return run_warming(warming, settings, reporter)


def images_of(given: Given, environ: Mapping[str, str]) -> tuple[Image, ...]:
    """Every image that is named, each once. Raises `UsageError` if there is none."""
    here = Platform.of_machine(platform.machine())
    text = given.text("customPlatform")
    try:
        chosen = Platform.parse(text, here) if text else here
        images = [(Reference.parse(name), chosen) for name in given.texts("image")]
    except InvalidReference as error:
        raise UsageError(f"--image: {error}") from None
    except ValueError as error:
        raise UsageError(f"--customPlatform: {error}") from None
    if given.text("dockerfile"):
        arguments = wanted.build_arguments(given, environ)
        images += images_of_file(given.text("dockerfile"), arguments, (chosen,))
    if not images:
        raise UsageError("name at least one --image, or a --dockerfile with some")
    return tuple(dict.fromkeys(images))
