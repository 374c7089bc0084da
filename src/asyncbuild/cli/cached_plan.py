"""``asyncbuild plan --cache``: what the cache would answer, and why it would not."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

import trio

from asyncbuild.build.answers import StageAnswer, render_answers
from asyncbuild.build.builder import ask_image_cache
from asyncbuild.build.outcome import one_error
from asyncbuild.cli.build import read_request, registry_settings
from asyncbuild.cli.interrupt import interruptible
from asyncbuild.report.choose import ProgressMode, make_reporter


def cached_plan(options: argparse.Namespace) -> int:
    """Print each stage's steps with the answers of the cache."""
    request = read_request(options)
    settings = registry_settings(options, request, os.environ)
    reporter = make_reporter(ProgressMode.QUIET, sys.stderr, os.environ, time.monotonic)

    async def ask() -> tuple[StageAnswer, ...]:
        with one_error():
            async with interruptible((signal.SIGINT, signal.SIGTERM)):
                return await ask_image_cache(request, settings, reporter)

    sys.stdout.write(render_answers(trio.run(ask)))
    return 0
