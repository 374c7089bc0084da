"""A build that stops itself (SIGSTOP) right before a file operation that a test names, to be killed there.

``python stopping.py EVENT PATTERN WORD…`` is ``python -m asyncbuild WORD…`` with an audit hook: when Python
is about to do EVENT (``os.rename``, ``open``, …; see its "Audit events table") with a path in which PATTERN
is found, all threads of the process stop. Nothing else of the program is touched.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import sys
import threading


def stop_before(event: str, pattern: str) -> None:
    """Stop this process once, before the first such operation."""
    wanted = re.compile(pattern)
    stopped: list[str] = []

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if name != event or stopped:
            return
        paths = [os.fsdecode(item) for item in arguments if isinstance(item, str | os.PathLike)]
        if any(map(wanted.search, paths)):
            stopped.append(name)
            # to this thread: another one would take the signal while this one goes on
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    sys.addaudithook(hook)


if __name__ == "__main__":
    stop_before(sys.argv[1], sys.argv[2])
    del sys.argv[1:3]
    runpy.run_module("asyncbuild", run_name="__main__", alter_sys=True)
