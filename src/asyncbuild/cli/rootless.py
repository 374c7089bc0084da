"""An ordinary user's start: into a user namespace, where the store's files have owners and RUN works.

Before anything else is done, for the commands that read or write the store: what belongs to subordinate ids
there can neither be read nor removed from outside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from asyncbuild.rootfs.subordinates import find_subordinates
from asyncbuild.rootfs.user_namespace import enter

_COMMANDS = ("build", "kaniko", "plan", "push", "du", "prune")
_WAY = "--isolation"
_STAYS = "none"


def enter_if_needed(words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Enter unless this is root, or the command needs no store, or ``--isolation none`` forbids it.

    A user who may not goes on outside: COPY and ADD work there, and RUN says what it lacks.
    """
    if os.geteuid() == 0 or not set(words[:1]) & set(_COMMANDS):
        return
    if _isolation(words) or environ.get("ASYNCBUILD_ISOLATION", "") == _STAYS:
        return
    os.environ.setdefault("HOME", os.path.expanduser("~"))  # the user's, also for root inside
    try:
        enter(find_subordinates())
    except OSError:
        return


def _isolation(words: Sequence[str]) -> bool:
    """Whether the words ask for no isolation; the parser itself takes too long to ask."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    return any(
        word == f"{_WAY}={_STAYS}" or (word == _WAY and value == _STAYS) for word, value in pairs
    )
