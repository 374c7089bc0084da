"""``asyncbuild pin``: writes the digests of images into a Dockerfile."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio

from asyncbuild.cli.bases import image_digests
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.cli.verify_options import read_verification
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import InputError, StoreError
from asyncbuild.plan.pinning import Mention, Standing, find_mentions, pinned, rewrite
from asyncbuild.records import replace

CHANGES = 1
"""The exit code of ``--check`` when the file would change."""


def pin(options: argparse.Namespace) -> int:
    """Pin every image that has no digest; with ``--update`` also those that have a tag and a digest."""
    path = Path(options.file)
    text = _read(path)
    mentions = find_mentions(parse_dockerfile(text, str(path)))
    todo = [mention for mention in mentions if _wanted(mention, update=options.update)]
    if options.check and not options.update:
        _tell(mentions, todo, "has no digest")
        return CHANGES if todo else 0
    asked = [replace(m.reference, digest=None) for m in todo if m.reference is not None]
    settings, verification = read_registries(options, os.environ), read_verification(options)
    digests = trio.run(image_digests, asked, settings, verification)
    changes = {
        mention: pinned(mention.text, digests[reference])
        for mention, reference in zip(todo, asked, strict=True)
    }
    changes = {mention: new for mention, new in changes.items() if new != mention.text}
    result, missed = rewrite(text, changes)
    done = [mention for mention in changes if mention not in missed]
    _tell(mentions, done, "would change" if options.check else "pinned", changes)
    for mention in missed:
        _say(mention, "is written in pieces or with escapes: it stays as it is")
    if result != text and not options.check:
        _write(path, result)
    return CHANGES if options.check and changes else 0


def _wanted(mention: Mention, *, update: bool) -> bool:
    if mention.reference is None:
        return False
    if mention.standing is Standing.OPEN:
        return True
    return update and mention.reference.tag is not None


def _tell(
    mentions: Sequence[Mention],
    done: Sequence[Mention],
    what: str,
    changes: dict[Mention, str] | None = None,
) -> None:
    for mention in mentions:
        if mention in done:
            new = changes[mention] if changes else None
            _say(mention, f"{what}: {new}" if new else what)
        elif mention.reference is None:
            _say(mention, mention.standing.value)


def _say(mention: Mention, what: str) -> None:
    place = f"{mention.location.file}:{mention.location.line}"
    sys.stderr.write(f"{place}: {mention.where} {mention.text}: {what}\n")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the Dockerfile {path}: {error.strerror}") from None


def _write(path: Path, text: bytes) -> None:
    """Whole or not at all: a new file with the old one's mode takes its place; a link stays a link."""
    real = path.resolve()
    try:
        mode = stat.S_IMODE(real.stat().st_mode)
        with tempfile.NamedTemporaryFile(dir=real.parent, prefix=".pin-", delete=False) as file:
            file.write(text)
        os.chmod(file.name, mode)
        os.replace(file.name, real)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
