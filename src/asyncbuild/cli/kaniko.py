"""``asyncbuild kaniko``, and the program called as ``executor``: kaniko's command line, our builds.

docs/migrating-from-kaniko.md says of every flag what it does here. `kaniko_build` makes the build; it is
imported when the first requests are on their way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from asyncbuild import __version__
from asyncbuild.cli.kaniko_flags import EXECUTOR, Given, read_flags
from asyncbuild.cli.starting import importing
from asyncbuild.errors import UsageError

GUIDE = "docs/migrating-from-kaniko.md"


def kaniko(words: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run kaniko's command line and return the exit code; errors are `AsyncbuildError`."""
    environ = os.environ if environ is None else environ
    match list(words[:1]):
        case ["version"]:
            sys.stdout.write(f"asyncbuild {__version__} (kaniko's command line)\n")
            return 0
        case ["warmer"]:
            from asyncbuild.cli.kaniko_warmer import warmer  # noqa: PLC0415 - rarely needed

            return warmer(words[1:], environ)
        case ["login"]:
            from asyncbuild.cli.kaniko_login import login  # noqa: PLC0415

            return login(words[1:], environ)
        case ["push"]:
            from asyncbuild.cli.kaniko_push import push  # noqa: PLC0415

            return push(words[1:], environ)
    if {"-h", "--help", "help"}.intersection(words):
        sys.stdout.write(help_text())
        return 0
    return _execute(_read(words), environ)


def _read(words: Sequence[str]) -> Given:
    given = read_flags(EXECUTOR, words)
    if given.words:
        raise UsageError(
            f"unknown word {given.words[0]!r}", hint="a flag of true or false is --flag=false"
        )
    return given


def _execute(given: Given, environ: Mapping[str, str]) -> int:
    from asyncbuild.cli.kaniko_options import check  # noqa: PLC0415 - not for --help

    check(given, environ)
    with importing():
        from asyncbuild.cli.kaniko_headstart import begin  # noqa: PLC0415

        head_start = begin(given, environ)
        from asyncbuild.cli.kaniko_build import execute  # noqa: PLC0415 - takes long

    try:
        return execute(given, environ, head_start)
    finally:
        if head_start is not None:
            head_start.close()


def help_text() -> str:
    """The flags in columns; what each does is in the guide."""
    names = sorted(f"--{flag.name}" for flag in EXECUTOR if not flag.now)
    width, rows = max(map(len, names)) + 2, -(-len(names) // 3)
    lines = [
        "".join(name.ljust(width) for name in names[row::rows]).rstrip() for row in range(rows)
    ]
    return "\n".join(
        (
            "usage: executor [FLAG[=VALUE]]…   (or: asyncbuild kaniko …)",
            "       executor push PATH -d REF…   (a tar of docker save, or an OCI layout)",
            "       executor login REGISTRY -u USER [-p PASSWORD | --password-stdin]",
            "",
            "kaniko's command line: builds the Dockerfile of --context, pushes it to every --destination.",
            "",
            *lines,
            "",
            "example:",
            "  executor --context dir:///workspace --destination registry.example.com/app:1 --cache=true",
            "",
            f"{GUIDE} says what each flag does.",
            "",
        )
    )
