"""Which keys images must be signed with: ``--verify-key [SCOPE=]FILE``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbuild.errors import InputError, UsageError

if TYPE_CHECKING:
    from asyncbuild.image.keys import VerifyKey
    from asyncbuild.registry.verification import Verification


def add_verify_option(command: argparse.ArgumentParser) -> None:
    """The option of every command that takes images from registries; docs/reference/cli.md has it."""
    command.add_argument(
        "--verify-key",
        action="append",
        default=[],
        metavar="[SCOPE=]FILE",
        help=argparse.SUPPRESS,
    )


def read_verification(options: argparse.Namespace) -> Verification:
    """The keys that the options name; a command without the option verifies nothing.

    Raises `UsageError`, or `InputError` for a file that cannot be read.
    """
    from asyncbuild.registry.verification import Verification  # noqa: PLC0415 - httpx comes with it

    return Verification(tuple(_key(text) for text in getattr(options, "verify_key", ())))


def _key(text: str) -> VerifyKey:
    from asyncbuild.image.keys import PublicKey, Scope, VerifyKey  # noqa: PLC0415 - rarely needed

    scope, mark, file = text.partition("=")
    if not mark:
        scope, file = "", text
    if not file or (mark and not scope):
        raise UsageError(f"--verify-key {text}: write FILE or SCOPE=FILE")
    wanted = Scope.parse(scope) if mark else Scope()
    try:
        pem = Path(file).read_bytes()
    except OSError as error:
        hint = "keys are files here, not services" if "://" in file else None
        raise InputError(f"--verify-key: cannot read {file}: {error.strerror}", hint=hint) from None
    return VerifyKey(PublicKey.parse(pem, file), wanted)
