"""What a person types: the commands, in the shape of ``docker buildx``; called as ``executor`` or
``warmer``, kaniko's.

Imports wait until a command needs them: ``asyncbuild --version`` costs what Python costs.
"""

from __future__ import annotations

import os
import sys

from asyncbuild import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_CALLED_AS = {"executor": ["kaniko"], "warmer": ["kaniko", "warmer"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (docs/reference/exit-codes.md)."""
    if arguments is None:
        words = [*_CALLED_AS.get(os.path.basename(sys.argv[0]), []), *sys.argv[1:]]
    else:
        words = list(arguments)
    if words in (["--version"], ["version"]):
        sys.stdout.write(f"asyncbuild {__version__}\n")
        return 0
    if os.geteuid() != 0:
        from asyncbuild.cli.rootless import enter_if_needed  # noqa: PLC0415 - only for others

        enter_if_needed(words, os.environ)
    from asyncbuild.cli.commands import dispatch  # noqa: PLC0415 - see above

    return dispatch(words)
