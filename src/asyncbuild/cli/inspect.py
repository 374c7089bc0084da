"""``asyncbuild inspect``: what a registry or a file has under a name."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.cli.transferring import platforms, reference_of
from asyncbuild.cli.verify_options import read_verification
from asyncbuild.errors import UsageError
from asyncbuild.image.manifest import Descriptor
from asyncbuild.image.platform import Platform
from asyncbuild.registry.client import Fetched
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.verification import Verification
from asyncbuild.report.escape import printable
from asyncbuild.transfer.files import open_image_file
from asyncbuild.transfer.inspection import Access, Inspected, inspect_image


def inspect(options: argparse.Namespace) -> int:
    """Print it."""
    if options.raw + options.json + options.config > 1:
        raise UsageError("--raw, --json and --config: one of them")
    wanted = platforms([options.platform] if options.platform else [])
    if len(wanted) > 1:
        raise UsageError("--platform: one of them")
    one = wanted[0] if wanted else None
    if (
        options.image == "-"
        or options.image.startswith((".", "/"))
        or os.path.exists(options.image)
    ):
        if options.verify_key:
            raise UsageError("--verify-key is for images in registries")
        found = trio.run(_inspect_file, options.image, one)
    else:
        settings = read_registries(options, os.environ)
        verification = read_verification(options)
        found = trio.run(_inspect_name, options.image, one, settings, verification)
    _print(options, found, chosen=one is not None)
    return 0


def _print(options: argparse.Namespace, found: Inspected, *, chosen: bool) -> None:
    if options.raw:
        shown = found.image if chosen and found.image is not None else found.top
        sys.stdout.buffer.write(shown.raw)
    elif options.config:
        sys.stdout.buffer.write(found.config)
    elif options.json:
        sys.stdout.write(json.dumps(found.document(), indent=2) + "\n")
    else:  # a registry's words never steer a terminal
        lines = found.text().split("\n")
        sys.stdout.write("\n".join(printable(line) for line in lines))


async def _inspect_name(
    name: str, wanted: Platform | None, settings: RegistrySettings, verification: Verification
) -> Inspected:
    reference = reference_of(name)
    with one_error():
        async with Registries(settings) as registries:
            client = registries.client(reference.registry)
            client.expect(reference.repository, "pull")

            async def look(entry: Descriptor) -> Fetched:
                return await client.get_manifest(reference.repository, entry.digest)

            async def read(config: Descriptor) -> bytes:
                return await client.get_blob(reference.repository, config)

            top = await client.resolve(reference)
            await verification.verify(client, top.manifest, reference)
            return await inspect_image(str(reference), top, Access(look, read), wanted, _here())


async def _inspect_file(name: str, wanted: Platform | None) -> Inspected:
    file = await trio.to_thread.run_sync(open_image_file, name)

    async def look(entry: Descriptor) -> Fetched:
        return await file.manifest(entry.digest)

    async def read(config: Descriptor) -> bytes:
        return await trio.to_thread.run_sync(file.document, config.digest)

    try:
        top = await file.manifest(file.choose(None).descriptor.digest)
        return await inspect_image(name, top, Access(look, read), wanted, _here())
    finally:
        file.close()


def _here() -> Platform:
    return Platform.of_machine(platform.machine())
