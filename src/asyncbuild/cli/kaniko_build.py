"""A build of kaniko's command line, from its flags to the files that it leaves."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from asyncbuild.build.request import BuildRequest, BuildResult, CachePlace
from asyncbuild.build.run_options import RunOptions, Secret
from asyncbuild.cli import kaniko_options as wanted
from asyncbuild.cli.build import creation_time, run_build
from asyncbuild.cli.cache_options import read_cache_options
from asyncbuild.cli.inputs import pairs
from asyncbuild.cli.kaniko import GUIDE
from asyncbuild.cli.kaniko_files import builder_output, digest_files, write_file
from asyncbuild.cli.kaniko_flags import Given, parse_duration
from asyncbuild.cli.kaniko_headstart import warmed
from asyncbuild.cli.kaniko_registries import registry_settings
from asyncbuild.cli.kaniko_source import KanikoSource, open_source
from asyncbuild.cli.places import store_directory
from asyncbuild.cli.run_options import (
    read_isolation,
    read_oci_runtime,
    secret_of_file,
    secret_of_variable,
)
from asyncbuild.errors import UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.output.spec import OutputKind, OutputSpec
from asyncbuild.records import replace
from asyncbuild.registry.headstart import HeadStart
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.report.choose import make_reporter
from asyncbuild.report.events import Reporter, WarningRaised
from asyncbuild.rootfs.isolation import Isolation

_MEANT_IN_PLACE = ("--force", "--cleanup")


def execute(given: Given, environ: Mapping[str, str], head_start: HeadStart | None) -> int:
    """Build what checked flags ask for; the exit code. ``head_start`` is what was asked already."""
    reporter = make_reporter(wanted.progress(given), sys.stderr, environ, time.monotonic)
    with ExitStack() as stack:
        stack.callback(reporter.close)
        _warn(given, reporter, read_isolation(given.text("isolation"), environ))
        source = open_source(given, environ, stack)
        request = build_request(given, source, environ)
        if given.on("dryrun"):
            return _print_plan(request)
        settings = registry_settings(given, request.destinations, environ)
        settings = replace(settings, head_start=head_start)
        if request.run.isolation is Isolation.INPLACE:
            request, settings = _in_place(given, request, settings)
        first, *others = given.texts("target") or (None,)
        for target in others:  # built, as kaniko does, and not published
            trio.run(run_build, _unpublished(request, target), settings, reporter)
        result = trio.run(run_build, replace(request, target=first), settings, reporter)
    _write_files(given, result, environ)
    sys.stdout.write(f"{result.manifest.digest}\n")
    return 0


def _in_place(
    given: Given, request: BuildRequest, settings: RegistrySettings
) -> tuple[BuildRequest, RegistrySettings]:
    from asyncbuild.cli.inplace import with_own_root  # noqa: PLC0415 - rarely needed

    named = wanted.outputs(given)
    files = (named.digest, named.name_with_digest, named.name_tag_with_digest)
    here = [path for path in files if path and not path.startswith("https://")]
    force, cleanup = given.on("force"), given.on("cleanup")
    return with_own_root(request, settings, here, force=force, cleanup=cleanup)


def _warn(given: Given, reporter: Reporter, isolation: Isolation) -> None:
    means = _MEANT_IN_PLACE if isolation is Isolation.INPLACE else ()
    without_meaning = [flag for flag in given.without_meaning if flag not in means]
    if without_meaning:
        flags = ", ".join(without_meaning)
        reporter.emit(WarningRaised(f"without meaning here: {flags} (see {GUIDE})"))


def _print_plan(request: BuildRequest) -> int:
    from asyncbuild.build.builder import plan_build  # noqa: PLC0415 - only for --dryrun
    from asyncbuild.plan.render import render  # noqa: PLC0415

    sys.stdout.write(render(plan_build(request)))
    return 0


def build_request(given: Given, source: KanikoSource, environ: Mapping[str, str]) -> BuildRequest:
    """What the flags ask for, with the first ``--target``."""
    named = wanted.destinations(given)
    here = Platform.of_machine(platform.machine())
    reproducible = given.on("reproducible")
    isolation = read_isolation(given.text("isolation"), environ)
    request = BuildRequest(
        context=source.context,
        dockerfile=source.dockerfile,
        dockerfile_path=source.dockerfile_path,
        store=_store(given, environ),
        platform=_platform(given, here),
        build_platform=here,
        created=_created(environ, reproducible=reproducible),
        destinations=named if wanted.pushes(given, environ) else (),
        outputs=_outputs(wanted.outputs(given)),
        names=named or ((wanted.UNNAMED,) if given.text("tar-path") else ()),
        target=next(iter(given.texts("target")), None),
        build_args=wanted.build_arguments(given, environ),
        labels=pairs(given.texts("label"), "--label"),
        annotations=pairs(given.texts("annotation"), "--annotation"),
        run=RunOptions(
            secrets=_secrets(given, environ),
            isolation=isolation,
            oci_runtime=read_oci_runtime(None, environ, isolation),
        ),
        compression=wanted.compression(given),
        docker_media_types=wanted.docker_types(given),
        keep_immutable_tags=given.on("push-ignore-immutable-tag-errors"),
        squash=given.on("single-snapshot"),
        ignored_paths=given.texts("ignore-path"),
        clamp_times=reproducible,
        volumes_are_lost=True,
        created_is_fixed=reproducible or bool(environ.get("SOURCE_DATE_EPOCH")),
        cache_dir=warmed(given),
        cache_ttl=parse_duration("--cache-ttl", given.text("cache-ttl")),
    )
    return _with_cache(request, given, named, environ)


def _secrets(given: Given, environ: Mapping[str, str]) -> dict[str, Secret]:
    return {
        item.name: (
            secret_of_variable(item.name, item.source, environ)
            if item.is_variable
            else secret_of_file(item.name, item.source)
        )
        for item in wanted.secrets(given, environ)
    }


def _store(given: Given, environ: Mapping[str, str]) -> Path:
    asked = wanted.store(given, environ)
    return asked if asked is not None else store_directory(None, environ)


def _platform(given: Given, here: Platform) -> Platform:
    text = given.text("custom-platform")
    try:
        return Platform.parse(text, here) if text else here
    except ValueError as error:
        raise UsageError(f"--custom-platform: {error}") from None


def _created(environ: Mapping[str, str], *, reproducible: bool) -> int:
    if reproducible and not environ.get("SOURCE_DATE_EPOCH"):
        return 0
    return creation_time(environ)


def _outputs(files: wanted.Outputs) -> tuple[OutputSpec, ...]:
    found = []
    if files.tar:
        found.append(OutputSpec(OutputKind.DOCKER, files.tar))
    if files.layout:
        found.append(OutputSpec(OutputKind.OCI, files.layout, tar=False))
    return tuple(found)


def _unpublished(request: BuildRequest, target: str) -> BuildRequest:
    return replace(request, target=target, destinations=(), outputs=(), names=())


def _with_cache(
    request: BuildRequest, given: Given, named: tuple[Reference, ...], environ: Mapping[str, str]
) -> BuildRequest:
    """The request with kaniko's cache: one place that is read and written, for all stages."""
    kinds = wanted.cached_instructions(given)
    if not kinds:
        return replace(request, use_cache=False)
    sources, targets = cache_places(given.text("cache-repo"), named, environ)
    return replace(
        request,
        cached_instructions=kinds,
        cache_from=sources,
        cache_to=() if given.on("no-push-cache") else targets,
    )


def cache_places(
    repository: str, named: Sequence[Reference], environ: Mapping[str, str]
) -> tuple[tuple[CachePlace, ...], tuple[CachePlace, ...]]:
    """Where results are looked for, and where they go: ``--cache-repo``, by default ``cache`` below the
    first destination's repository; ``oci:PATH`` is a directory.
    """
    read = read_cache_options(wanted.cache_options(repository, named), environ)
    return read.sources, read.targets


def _write_files(given: Given, result: BuildResult, environ: Mapping[str, str]) -> None:
    digest = result.manifest.digest
    files = digest_files(wanted.outputs(given), digest, wanted.destinations(given))
    for place, data in (*files, *builder_output(environ, digest, result.pushed)):
        write_file(place, data)
