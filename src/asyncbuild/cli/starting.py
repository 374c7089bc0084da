"""The start of a command, most of which is imports."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_SECONDS = 0.0005
"""How long one thread may keep others waiting while the program starts: a tenth of Python's usual."""


@contextmanager
def importing() -> Iterator[None]:
    """Around the imports of a command.

    What they make stays until the end: the collector need neither look for rubbish among it now (7 % of the
    start) nor go through it again later. And the threads of a head start, which have little to do, need not
    wait 5 ms for the interpreter whenever an answer comes.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.setswitchinterval(before)
