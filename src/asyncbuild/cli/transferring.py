"""What commands that move images have in common: registries, progress, signals, names."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.cli.interrupt import interruptible
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.errors import UsageError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Index
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.records import dataclass, replace
from asyncbuild.registry.client import Fetched
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.report.choose import ProgressMode, make_reporter
from asyncbuild.report.events import Reporter, WarningRaised
from asyncbuild.transfer.copying import Copier, as_fetched, choose_platforms
from asyncbuild.transfer.sources import Source

_TICK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the work of one command is done."""

    registries: Registries
    reporter: Reporter
    nursery: trio.Nursery


Work = Callable[[Desk], Awaitable[Digest]]


def transfer(options: argparse.Namespace, work: Work) -> int:
    """Do ``work`` with progress on stderr, and print the digest of what came of it."""
    settings = read_registries(options, os.environ)
    return transfer_with(settings, ProgressMode.parse(options.progress), work)


def transfer_with(settings: RegistrySettings, progress: ProgressMode, work: Work) -> int:
    """The same with what was read of another command line."""
    reporter = make_reporter(progress, sys.stderr, os.environ, time.monotonic)
    try:
        digest = trio.run(_run, settings, reporter, work)
    finally:
        reporter.close()
    sys.stdout.write(f"{digest}\n")
    return 0


async def _run(settings: RegistrySettings, reporter: Reporter, work: Work) -> Digest:
    async def tick() -> None:
        while True:
            await trio.sleep(_TICK_SECONDS)
            reporter.tick()

    told = replace(settings, on_notice=lambda text: reporter.emit(WarningRaised(text)))
    signals = (signal.SIGINT, signal.SIGTERM)
    with one_error():
        async with interruptible(signals), Registries(told) as registries:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tick)
                digest = await work(Desk(registries, reporter, nursery))
                nursery.cancel_scope.cancel()
    return digest


def references(texts: Iterable[str], option: str) -> tuple[Reference, ...]:
    """Names to push to, each once. Raises `UsageError` for one that is none, and for a digest."""
    found = []
    for text in texts:
        reference = reference_of(text, option)
        if reference.digest is not None:
            raise UsageError(f"{option}{text}: a tag is pushed to, a digest is what comes of it")
        found.append(reference)
    return tuple(dict.fromkeys(found))


def reference_of(text: str, option: str = "") -> Reference:
    """A name; raises `UsageError`."""
    try:
        return Reference.parse(text)
    except InvalidReference as error:
        raise UsageError(f"{option}{error}") from None


def platforms(texts: Iterable[str]) -> tuple[Platform, ...]:
    """``--platform``, repeated or with commas."""
    here = Platform.of_machine(platform.machine())
    found = []
    for text in texts:
        for item in filter(None, text.split(",")):
            try:
                found.append(Platform.parse(item, here))
            except ValueError as error:
                raise UsageError(f"--platform: {error}") from None
    return tuple(dict.fromkeys(found))


async def narrowed(source: Source, image: Fetched, wanted: tuple[Platform, ...]) -> Fetched:
    """``image`` for some platforms only: one image for one, an index for several."""
    if not wanted or not isinstance(image.manifest, Index):
        return image
    try:
        if len(wanted) > 1:
            return as_fetched(choose_platforms(image.manifest, wanted))
        entry = image.manifest.choose(wanted[0])
    except LookupError as error:
        raise UsageError(f"--platform: there is no image for {error.args[0]}") from None
    if entry is None:
        raise UsageError(f"--platform: there is no image for {wanted[0]}")
    return await source.manifest(entry.digest)


async def copy_everywhere(
    desk: Desk,
    source: Source,
    image: Fetched,
    names: tuple[Reference, ...],
    *,
    keep_immutable: bool = False,
) -> None:
    """Bring ``image`` to every name: repositories side by side, names of one repository together."""
    tags: dict[tuple[str, str], list[str | None]] = {}
    for name in names:
        tags.setdefault((name.registry, name.repository), []).append(name.tag)
    async with trio.open_nursery() as nursery:
        for (registry, repository), found in tags.items():
            copier = Copier(
                desk.registries, desk.reporter, registry, repository, keep_immutable=keep_immutable
            )
            copier.expect()
            nursery.start_soon(copier.copy, source, image, found)
