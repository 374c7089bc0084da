"""``executor push PATH``: an image in a tar or a layout goes to every ``--destination``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from asyncbuild.cli import kaniko_options as wanted
from asyncbuild.cli.kaniko_flags import PUSH, read_flags
from asyncbuild.cli.kaniko_registries import registry_settings
from asyncbuild.cli.transferring import Desk, copy_everywhere, transfer_with
from asyncbuild.errors import UsageError
from asyncbuild.image.digest import Digest
from asyncbuild.report.events import WarningRaised
from asyncbuild.transfer.files import open_image_file


def push(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Push, and print the digest. Raises `UsageError` for a wrong line, `InputError` for no image."""
    given = read_flags(PUSH, words)
    if len(given.words) != 1:
        raise UsageError("name one file or directory: executor push PATH --destination REF")
    names = wanted.destinations(given)
    if not names:
        raise UsageError("at least one --destination is required")
    (path,) = given.words

    async def work(desk: Desk) -> Digest:
        if given.without_meaning:
            flags = ", ".join(given.without_meaning)
            desk.reporter.emit(WarningRaised(f"without meaning here: {flags}"))
        file = await trio.to_thread.run_sync(open_image_file, path)
        try:
            image = await file.manifest(file.choose(None).descriptor.digest)
            keep = given.on("push-ignore-immutable-tag-errors")
            await copy_everywhere(desk, file, image, names, keep_immutable=keep)
        finally:
            file.close()
        return image.digest

    return transfer_with(registry_settings(given, names, environ), wanted.progress(given), work)
