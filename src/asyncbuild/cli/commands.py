"""From words to a command; from an error to an exit code and a text that helps."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module

from asyncbuild.cli import arguments
from asyncbuild.cli.starting import importing
from asyncbuild.errors import AsyncbuildError

INTERRUPTED = 130
TERMINATED = 143
BROKEN = 70  # sysexits' EX_SOFTWARE: a fault of ours

_NO_BUILD = (["warmer"], ["login"], ["push"], ["version"])
"""Commands of ``asyncbuild kaniko``."""
_OTHER_COMMANDS = {
    "push": "asyncbuild.cli.push",
    "copy": "asyncbuild.cli.copy",
    "inspect": "asyncbuild.cli.inspect",
    "index": "asyncbuild.cli.index",
    "login": "asyncbuild.cli.login",
    "logout": "asyncbuild.cli.login",
    "warm": "asyncbuild.cli.warm",
    "doctor": "asyncbuild.cli.doctor",
    "cache": "asyncbuild.cli.cache",
}


class _Terminated(BaseException):
    """SIGTERM, where nothing else listens."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end whatever is done, and what was begun be cleaned up; `interruptible` listens better.

    A container's first process has no default for it: without this a pod's eviction is not heard while
    a context is fetched.
    """

    def end(_number: int, _frame: object) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread: whoever called has that
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def dispatch(words: Sequence[str]) -> int:
    """Parse ``words``, run their command, print its error if it raises one."""
    try:
        with _terminable():
            return _dispatch(words)
    except _Terminated:
        sys.stderr.write("\nasyncbuild: interrupted by SIGTERM\n")
        return TERMINATED


def _dispatch(words: Sequence[str]) -> int:
    in_place = is_in_place(words, os.environ)
    try:
        if in_place:
            import_module("asyncbuild.cli.inplace").enter(words)
        if words[:1] == ["kaniko"]:
            from asyncbuild.cli.kaniko import kaniko  # noqa: PLC0415

            return kaniko(words[1:])
        with ExitStack() as closing:
            with importing():
                options = arguments.parser(words[0] if words else "").parse_args(words)
                options.closing = closing
                if options.command == "build" and not (options.call or in_place):
                    from asyncbuild.cli.headstart import prepare  # noqa: PLC0415

                    prepare(options, os.environ)
                command = _command(options.command)
            return command(options)
    except AsyncbuildError as error:
        sys.stderr.write(f"\nasyncbuild: {error.render()}\n")
        return error.exit_code
    except BrokenPipeError:
        # whoever read our output has seen enough; the interpreter must not try to flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nasyncbuild: interrupted\n")
        return INTERRUPTED
    finally:
        if in_place:
            import_module("asyncbuild.cli.inplace").leave(words)


def is_in_place(words: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether this is a build with ``--isolation inplace``; the parsers themselves take too long to ask."""
    if words[:1] not in (["build"], ["kaniko"]) or words[1:2] in _NO_BUILD:
        return False
    if {"-h", "--help"} & set(words):
        return False
    way = environ.get("ASYNCBUILD_ISOLATION", "")
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word == "--isolation":
            way = value
        elif word.startswith("--isolation="):
            way = word.partition("=")[2]
    return way == "inplace"


def _command(name: str) -> Callable[..., int]:
    """The function of a command; its module is imported only now."""
    if name == "plan":
        from asyncbuild.cli.plan import plan  # noqa: PLC0415

        return plan
    if name == "check":
        from asyncbuild.cli.check import check  # noqa: PLC0415

        return check
    if name == "pin":
        from asyncbuild.cli.pin import pin  # noqa: PLC0415

        return pin
    if name in ("du", "prune"):
        from asyncbuild.cli import upkeep  # noqa: PLC0415

        return upkeep.du if name == "du" else upkeep.prune
    if name in _OTHER_COMMANDS:
        command: Callable[..., int] = getattr(import_module(_OTHER_COMMANDS[name]), name)
        return command
    from asyncbuild.cli.build import build  # noqa: PLC0415

    return build
