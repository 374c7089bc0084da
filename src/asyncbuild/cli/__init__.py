"""What a person types: the commands, in the shape of ``docker buildx``.

Imports wait until a command needs them: ``asyncbuild --version`` costs what Python costs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from asyncbuild import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (docs/reference/exit-codes.md)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--version"], ["version"]):
        sys.stdout.write(f"asyncbuild {__version__}\n")
        return 0
    from asyncbuild.cli.commands import dispatch  # noqa: PLC0415 - see above

    return dispatch(words)
