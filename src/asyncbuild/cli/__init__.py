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
    """Run one command and return its exit code (docs/reference/exit-codes.md).

    Without ``arguments`` this is the program: the words are those that it was called with, and the process
    ends here.
    """
    if arguments is not None:
        return _run(list(arguments))
    code = _run([*_CALLED_AS.get(os.path.basename(sys.argv[0]), []), *sys.argv[1:]])
    _end(code)
    return code


def _run(words: list[str]) -> int:
    if words in (["--version"], ["version"]):
        sys.stdout.write(f"asyncbuild {__version__}\n")
        return 0
    if os.geteuid() != 0:
        from asyncbuild.cli.rootless import enter_if_needed  # noqa: PLC0415 - only for others

        enter_if_needed(words, os.environ)
    from asyncbuild.cli.commands import dispatch  # noqa: PLC0415 - see above

    return dispatch(words)


def _end(code: int) -> None:
    """End the process, unless something is still to be said: to free everything that was imported takes
    Python 10 ms, and the kernel does so anyway.

    What was registered for the end (`atexit`) happens. A debugger or a profiler sees Python's usual
    end, and so does output that cannot be written, of which Python tells.
    """
    if sys.gettrace() is not None or sys.getprofile() is not None:
        return
    import atexit  # noqa: PLC0415 - it is part of the interpreter

    atexit._run_exitfuncs()  # noqa: SLF001 - as Python's own end and multiprocessing's children do
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code)
