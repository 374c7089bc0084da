"""``asyncbuild build``: options to a request, the request to an image, the image's digest to stdout."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from asyncbuild.build.builder import build_image
from asyncbuild.build.outcome import one_error
from asyncbuild.build.request import BuildRequest, BuildResult
from asyncbuild.cli.cache_options import read_cache_options, read_mount_places
from asyncbuild.cli.inputs import check_places, pairs, read_inputs
from asyncbuild.cli.interrupt import interruptible
from asyncbuild.cli.limits import read_limits
from asyncbuild.cli.places import store_directory
from asyncbuild.cli.policy import read_gate
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.cli.run_options import read_run_options
from asyncbuild.cli.verify_options import read_verification
from asyncbuild.errors import UsageError
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.layers.compression import GZIP, Codec, Compression
from asyncbuild.output.annotations import (
    AnnotationLevel,
    annotations_at,
    parse_annotation_option,
)
from asyncbuild.output.spec import OutputKind, OutputSpec, parse_output
from asyncbuild.records import replace
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.report.choose import ProgressMode, make_reporter
from asyncbuild.report.events import Reporter, Tee, WarningRaised
from asyncbuild.report.metadata import (
    BuildRecord,
    ImageFacts,
    write_iidfile,
    write_metadata_file,
)
from asyncbuild.rootfs.isolation import Isolation

if TYPE_CHECKING:
    from asyncbuild.registry.headstart import HeadStart
    from asyncbuild.report.trace import TraceRecorder

_TICK_SECONDS = 0.1


def build(options: argparse.Namespace) -> int:
    """Build, push, write files, print the digest; or answer a question about the build (``--call``)."""
    if options.call:
        from asyncbuild.cli.call import Call, answer  # noqa: PLC0415 - rarely needed

        call = Call.parse(options.call)
        if call is not None:
            if options.policy is not None or options.verify_key:
                what = "--verify-key" if options.policy is None else "--policy"
                raise UsageError(f"{what} is for builds, and this asks a question")
            return answer(call, read_inputs(options), options)
    request = read_request(options)
    settings = registry_settings(options, request, os.environ)
    if request.run.isolation is Isolation.INPLACE:
        from asyncbuild.cli.inplace import with_own_root  # noqa: PLC0415 - rarely needed

        files = _files_to_write(options, request.outputs)
        request, settings = with_own_root(
            request, settings, files, force=options.force, cleanup=options.cleanup
        )
    record = BuildRecord()
    trace = _trace() if options.trace else None
    shown = make_reporter(
        ProgressMode.parse(options.progress), sys.stderr, os.environ, time.monotonic
    )
    reporter = Tee((shown, record) if trace is None else (shown, record, trace))
    try:
        if not (request.destinations or request.outputs):
            reporter.emit(WarningRaised("no -t and no --output: the image will go nowhere"))
        watching = [trace.tasks] if trace is not None and trace.tasks is not None else []
        result = trio.run(run_build, request, settings, reporter, instruments=watching)
    finally:
        reporter.close()
        if trace is not None:
            _add_early(trace, settings.head_start)
            trace.write(Path(options.trace))
    _write_files(options, request, result, record)
    if not any(output.to_stdout for output in request.outputs):
        sys.stdout.write(f"{result.manifest.digest}\n")
    return 0


def _trace() -> TraceRecorder:
    """A recorder of everything since this process began; the first span is what came before the build."""
    from asyncbuild.report.causes import TaskTrace  # noqa: PLC0415 - only for who asks for a trace
    from asyncbuild.report.trace import Span, TraceRecorder, process_start  # noqa: PLC0415

    start = process_start()
    recorder = TraceRecorder(time.monotonic, start=start, tasks=TaskTrace(time.monotonic, start))
    recorder.add(Span("start-up", "process", 0.0, time.monotonic() - start, "process"))
    return recorder


def _add_early(trace: TraceRecorder, head_start: HeadStart | None) -> None:
    """What was done while this program was imported."""
    from asyncbuild.report.trace import Span  # noqa: PLC0415 - only for who asks for a trace

    for sent in head_start.log if head_start is not None else ():
        began, ended = (moment - trace.began for moment in (sent.began, sent.ended))
        trace.add(Span(sent.what, "head start", began, ended))


async def run_build(
    request: BuildRequest, settings: RegistrySettings, reporter: Reporter
) -> BuildResult:
    """Build what ``request`` asks for; a signal ends it in good order."""

    async def tick() -> None:
        while True:
            await trio.sleep(_TICK_SECONDS)
            reporter.tick()

    signals = (signal.SIGINT, signal.SIGTERM)
    with one_error():
        async with interruptible(signals), trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            result = await build_image(request, settings, reporter)
            nursery.cancel_scope.cancel()
    return result


def read_request(options: argparse.Namespace) -> BuildRequest:
    """The build that the options ask for. Raises `UsageError` and `InputError`."""
    inputs = getattr(options, "inputs", None) or read_inputs(options)
    tags = tuple(_reference(text) for text in options.tag)
    outputs = tuple(parse_output(text) for text in options.output)
    asked = tuple(item for text in options.annotation for item in parse_annotation_option(text))
    annotations = (*(item for output in outputs for item in output.annotations), *asked)
    local = tuple(
        replace(item, annotations=(*item.annotations, *asked))
        for item in outputs
        if item.kind is not OutputKind.IMAGE
    )
    check_places(_files_to_write(options, outputs))
    cache = read_cache_options(options, os.environ)
    return BuildRequest(
        use_cache=cache.use,
        no_cache_filter=cache.filtered,
        cache_from=cache.sources,
        cache_to=cache.targets,
        cache_ttl=cache.ttl,
        cache_mounts_from=read_mount_places("--cache-mount-from", options.cache_mount_from),
        cache_mounts_to=read_mount_places("--cache-mount-to", options.cache_mount_to),
        cache_dir=Path(options.cache_dir) if options.cache_dir else None,
        context=inputs.context,
        context_is_remote=inputs.context_is_remote,
        contexts=inputs.contexts.places,
        dockerfile=inputs.dockerfile,
        dockerfile_path=inputs.dockerfile_path,
        store=store_directory(options.store, os.environ),
        platform=inputs.platform,
        build_platform=inputs.build_platform,
        created=creation_time(os.environ),
        created_is_fixed=bool(os.environ.get("SOURCE_DATE_EPOCH")),
        destinations=_destinations(tags, outputs, push=options.push),
        outputs=local,
        names=tags or tuple(name for item in local for name in item.names),
        target=options.target,
        build_args=inputs.build_args,
        labels=pairs(options.label, "--label"),
        annotations=annotations_at(annotations, AnnotationLevel.MANIFEST, inputs.platform),
        add_hosts=tuple(_host(text) for text in options.add_host),
        network=options.network,
        run=read_run_options(options, os.environ),
        limits=read_limits(options),
        gate=read_gate(options),
        verification=read_verification(options),
        compression=_compression(outputs),
        clamp_times=_clamp_times(outputs),
        docker_media_types=any(item.oci_media_types is False for item in outputs),
        stdout=sys.stdout.fileno() if any(item.to_stdout for item in outputs) else 1,
    )


def _files_to_write(options: argparse.Namespace, outputs: tuple[OutputSpec, ...]) -> list[str]:
    named = [options.metadata_file, options.iidfile, options.trace]
    named += [item.destination for item in outputs if item.tar and not item.to_stdout]
    return [file for file in named if file]


def _destinations(
    tags: tuple[Reference, ...], outputs: tuple[OutputSpec, ...], *, push: bool
) -> tuple[Reference, ...]:
    """Where to push: to every tag, unless there are outputs and none of them (nor --push) asks for it."""
    images = [item for item in outputs if item.kind is OutputKind.IMAGE and item.push]
    if outputs and not images and not push:
        return ()
    named = [name for item in images for name in item.names]
    wanted = tuple(dict.fromkeys(tags or tuple(named)))
    if (images or push) and not wanted:
        raise UsageError("nothing says where to push", hint="name the image with -t")
    for reference in wanted:
        if reference.digest is not None:
            raise UsageError(f"-t {reference}: a tag is pushed to, a digest is what comes of it")
    return wanted


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except InvalidReference as error:
        raise UsageError(f"-t: {error}") from None


def _host(text: str) -> tuple[str, str]:
    """``name:address`` or ``name=address``; an IPv6 address may stand in brackets."""
    name, mark, address = text.partition("=" if "=" in text else ":")
    if not (name and mark and address):
        raise UsageError(f"--add-host {text}: write HOST:ADDRESS")
    return name, address.strip("[]")


def _compression(outputs: tuple[OutputSpec, ...]) -> Compression:
    asked = {
        Compression(Codec(item.compression.value), item.level)
        for item in outputs
        if item.compression is not None
    }
    if len(asked) > 1:
        raise UsageError("two outputs ask for different compressions: layers are packed once")
    return asked.pop() if asked else GZIP


def _clamp_times(outputs: tuple[OutputSpec, ...]) -> bool:
    """Whether no file of a new layer may be younger than SOURCE_DATE_EPOCH; without it that is now."""
    asked = {item.rewrite_timestamp for item in outputs if item.rewrite_timestamp is not None}
    if len(asked) > 1:
        raise UsageError("two outputs differ in rewrite-timestamp: layers are packed once")
    return True in asked


def creation_time(environ: Mapping[str, str]) -> int:
    """SOURCE_DATE_EPOCH, or now; seconds since the epoch."""
    text = environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return int(time.time())
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}: it must be seconds since 1970")
    return int(text)


def registry_settings(
    options: argparse.Namespace, request: BuildRequest, environ: Mapping[str, str]
) -> RegistrySettings:
    """Logins, and what the options say of registry hosts."""
    insecure = [
        name.registry
        for text in options.output
        if (spec := parse_output(text)).insecure
        for name in spec.names or request.destinations
    ]
    settings = read_registries(options, environ, insecure)
    return replace(settings, head_start=getattr(options, "head_start", None))


def _write_files(
    options: argparse.Namespace, request: BuildRequest, result: BuildResult, record: BuildRecord
) -> None:
    manifest = result.manifest
    if options.metadata_file:
        names = request.destinations or request.names
        facts = ImageFacts(manifest.descriptor, manifest.config.digest, names)
        write_metadata_file(Path(options.metadata_file), facts, record)
    if options.iidfile:
        write_iidfile(Path(options.iidfile), manifest.config.digest)
