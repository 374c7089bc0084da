"""The head start of kaniko's command line: as `headstart`, by kaniko's flags."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from asyncbuild.cli import kaniko_options as wanted
from asyncbuild.cli.cache_options import read_indexes
from asyncbuild.cli.headstart import FAULTS, FirstRequests, names_in, plan_of
from asyncbuild.cli.kaniko_context import Directory, context_place
from asyncbuild.cli.kaniko_flags import Given
from asyncbuild.cli.kaniko_registries import read_hosts, read_mirrors
from asyncbuild.cli.places import store_directory
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.registry.headstart import HeadStart
from asyncbuild.registry.places import Files, Places

WARMED = Path("/cache")
"""Where warmer leaves images unless told otherwise."""


def begin(given: Given, environ: Mapping[str, str]) -> HeadStart | None:
    """Ask what a build of checked flags asks first; None where the Dockerfile is not here yet, where no
    registry is asked (``--dryrun``), and where warmed images are looked at first.
    """
    isolation = given.text("isolation") or environ.get("ASYNCBUILD_ISOLATION")
    if given.on("dryrun") or warmed(given) is not None or isolation == "inplace":
        return None
    start = HeadStart()
    with contextlib.suppress(*FAULTS, ValueError):
        path = _dockerfile(given, environ)
        if path is None:
            return None
        first = _first_requests(given, environ)
        pushed = given.texts("destination") if wanted.pushes(given, environ) else ()
        first.ask_indexes(start, _indexes(given, environ))
        first.dial(start, names_in(str(path)), pushed)
        from asyncbuild.plan.planner import PlanRequest  # noqa: PLC0415 - while connections are made

        here = Platform.of_machine(platform.machine())
        text = given.text("custom-platform")
        request = PlanRequest(
            platform=Platform.parse(text, here) if text else here,
            build_platform=here,
            build_args=wanted.build_arguments(given, environ),
            target=next(iter(given.texts("target")), None),
        )
        first.ask(start, plan_of(path.read_bytes(), path, request), pushed)
    return start


def warmed(given: Given) -> Path | None:
    """The directory of base images: ``--cache-dir``, or the one that warmer fills, if it is there."""
    text = given.text("cache-dir")
    if text:
        return Path(text)
    return WARMED if (WARMED / "oci-layout").is_file() else None


def _indexes(given: Given, environ: Mapping[str, str]) -> list[Reference]:
    """What is read first of ``--cache-repo``."""
    if not wanted.cached_instructions(given):
        return []
    options = wanted.cache_options(given.text("cache-repo"), wanted.destinations(given))
    return read_indexes(options, environ)


def _dockerfile(given: Given, environ: Mapping[str, str]) -> Path | None:
    place = context_place(given, environ)
    if not isinstance(place, Directory):
        return None
    text = given.text("dockerfile")
    inside = os.path.join(place.path, given.text("context-sub-path"), text)
    return next((Path(path) for path in (text, inside) if os.path.isfile(path)), None)


def _first_requests(given: Given, environ: Mapping[str, str]) -> FirstRequests:
    hosts, others = read_hosts(
        given, {item.registry for item in wanted.destinations(given)}, environ
    )
    places = Places(Files(), read_mirrors(given, environ), hosts, others)
    store = wanted.store(given, environ) or store_directory(None, environ)
    return FirstRequests.at(places, store, environ)
