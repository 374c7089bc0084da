"""``asyncbuild push``: an image from a file, or one that a build kept because its push failed."""

from __future__ import annotations

import argparse
import contextlib
import os

import trio

from asyncbuild.cli.places import store_directory
from asyncbuild.cli.transferring import (
    Desk,
    copy_everywhere,
    narrowed,
    platforms,
    references,
    transfer,
)
from asyncbuild.errors import InputError, UsageError
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.store.kept import KeptImage, forget_image, kept_images
from asyncbuild.store.store import Store
from asyncbuild.transfer.files import open_image_file
from asyncbuild.transfer.stored import StoredSource


def push(options: argparse.Namespace) -> int:
    """Push to every ``-t``; without one to where the source says."""
    with contextlib.suppress(InvalidDigest):
        return _push_kept(options, Digest.parse(options.source))
    return _push_file(options)


def _push_file(options: argparse.Namespace) -> int:
    names = references(options.tag, "-t ")
    wanted = platforms(options.platform)

    async def work(desk: Desk) -> Digest:
        file = await trio.to_thread.run_sync(open_image_file, options.source)
        try:
            entry = file.choose(options.image)
            where = names or entry.references
            if not where:
                raise UsageError("nothing says where to push", hint="name the image with -t")
            image = await narrowed(file, await file.manifest(entry.descriptor.digest), wanted)
            await copy_everywhere(desk, file, image, where)
        finally:
            file.close()
        return image.digest

    return transfer(options, work)


def _push_kept(options: argparse.Namespace, digest: Digest) -> int:
    directory = store_directory(options.store, os.environ)
    if options.image or options.platform:
        raise UsageError("--image and --platform are for files: a kept image is one image")
    if not directory.is_dir():
        raise InputError(f"there is no store at {directory}", hint="name it with --store DIR")
    asked = references(options.tag, "-t ")

    async def work(desk: Desk) -> Digest:
        with await trio.to_thread.run_sync(Store.open, directory) as store:
            kept = await trio.to_thread.run_sync(_find, store, digest)
            source = StoredSource(store, kept, desk.registries, desk.nursery)
            image = await source.manifest(kept.manifest)
            await copy_everywhere(desk, source, image, asked or kept.names)
            if not asked or set(kept.names) <= set(asked):
                await trio.to_thread.run_sync(forget_image, store, kept)
        return image.digest

    return transfer(options, work)


def _find(store: Store, digest: Digest) -> KeptImage:
    images = kept_images(store)
    for image in images:
        if image.manifest == digest:
            return image
    known = ", ".join(str(image.manifest) for image in images) or "none"
    raise InputError(f"the store kept no image {digest}", hint=f"it kept: {known}")
