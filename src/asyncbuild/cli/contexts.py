"""CONTEXT, ``-f`` and ``--build-context``: what they name, and how it comes here.

CONTEXT is a directory, ``-`` (an archive or a Dockerfile on the standard input), a git reference, a URL,
or, ours, a file that is an archive. A directory of that name wins over what looks like a URL (buildx).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from asyncbuild.cli.limits import read_limits
from asyncbuild.cli.places import store_directory
from asyncbuild.cli.policy import read_gate
from asyncbuild.context.directory import DirectoryContext
from asyncbuild.dockerfile.remote import Remote, WebFile, parse_context_remote, redacted
from asyncbuild.dockerfile.source import Problem
from asyncbuild.errors import InputError, UsageError
from asyncbuild.layers.changeset import FileSource
from asyncbuild.plan.contexts import NamedContexts
from asyncbuild.records import dataclass

if TYPE_CHECKING:
    from asyncbuild.build.fetch import FetchTools

T = TypeVar("T")

_NAMES = ("Dockerfile", "dockerfile")


@dataclass(frozen=True, slots=True)
class Opened:
    """A context that is here, and where its Dockerfile is read and what it is called."""

    context: Path
    dockerfile: Path
    shown: Path
    remote: bool = False


def open_context_of(options: argparse.Namespace) -> Opened:
    """The context and the Dockerfile that the options name.

    What is fetched or unpacked lives until ``options.closing`` (an ExitStack) is closed. Raises
    `UsageError`, `InputError`, `FetchFailed`.
    """
    place = Path(options.context)
    if options.context != "-" and place.is_dir():
        return _local(place, options)
    remote = None if options.context == "-" else _remote(options.context)
    if remote is None and options.context != "-" and not place.is_file():
        what = "is not a directory or an archive" if place.exists() else "does not exist"
        raise InputError(f"the context {place} {what}", hint="name the directory to COPY from")
    return _received(remote, options)


def read_named_contexts(items: Iterable[str]) -> NamedContexts:
    """``NAME=PLACE`` words. Raises `UsageError`; `InputError` for a directory that is not there."""
    places: dict[str, str] = {}
    for item in items:
        name, equals, place = item.partition("=")
        if not (equals and name and place):
            raise UsageError(f"--build-context {item}: write NAME=PLACE")
        places[name] = place
        known = place.startswith(("docker-image://", "oci-layout://", "target:"))
        if not known and not Path(place).is_dir() and _remote(place) is None:
            raise InputError(f"--build-context {item}: there is no directory {place}")
    return NamedContexts.parse(places)


def _local(context: Path, options: argparse.Namespace) -> Opened:
    """BuildKit's rule: ``-f`` is seen from where the command runs."""
    if options.file is None:
        found = next((context / name for name in _NAMES if (context / name).exists()), None)
        path = found or context / _NAMES[0]
        return Opened(context, path, path)
    return _named_file(context, options)


def _named_file(context: Path, options: argparse.Namespace, *, remote: bool = False) -> Opened:
    text = options.file
    url = None if text == "-" or Path(text).exists() else _remote(text)
    if isinstance(url, WebFile):
        path = _run(options, partial(_fetch_dockerfile, url))
        return Opened(context, path, Path(url.name), remote)
    path = Path("/dev/stdin") if text == "-" else Path(text)
    return Opened(context, path, path, remote)


def _received(remote: Remote | None, options: argparse.Namespace) -> Opened:
    from asyncbuild.build.incoming import RemotePlace, receive_context  # noqa: PLC0415 - rare

    place: RemotePlace
    if remote is not None:
        place = remote
    elif options.context == "-":
        if options.file == "-":
            raise UsageError("the standard input cannot be both the context and the Dockerfile")
        place = _spooled(options)
    else:
        place = Path(options.context)
    made_ns = time.time_ns() // 10**9 * 10**9

    async def receive(tools: FetchTools) -> tuple[Path, Path | None]:
        incoming = await receive_context(place, tools, made_ns)
        return incoming.context, incoming.dockerfile

    context, itself = _run(options, receive)
    if itself is not None and remote is None and options.context != "-":
        raise InputError(f"the context {options.context} is not a directory or an archive")
    if itself is not None and options.file is None:
        return Opened(context, itself, Path("Dockerfile"), remote=True)
    if options.file == "-" or (options.file or "").startswith(("http://", "https://")):
        return _named_file(context, options, remote=True)
    return _inside(context, options)


def _inside(context: Path, options: argparse.Namespace) -> Opened:
    """``-f`` in a context that came from elsewhere: seen from its top, links followed inside it."""
    tree = DirectoryContext(context)
    names = _NAMES if options.file is None else (options.file,)
    for name in names:
        entry = tree.lookup(tree.resolve(name))
        if entry is not None and isinstance(entry.source, FileSource):
            return Opened(context, Path(entry.source.path), Path(name), remote=True)
    shown = "standard input" if options.context == "-" else redacted(options.context)
    raise InputError(
        f"the context {shown} has no {names[0]}", hint="name the Dockerfile in it with -f"
    )


def _remote(text: str) -> Remote | None:
    try:
        return parse_context_remote(text)
    except Problem as error:
        raise UsageError(str(error)) from None


def _spooled(options: argparse.Namespace) -> Path:
    """The standard input as a file."""
    if sys.stdin.isatty():
        raise UsageError("the context is to come from the standard input, and nothing is piped in")
    path = _tools(options).store.new_work("context") / "stdin"
    with path.open("xb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return path


def _run(options: argparse.Namespace, work: Callable[[FetchTools], Awaitable[T]]) -> T:
    """Do something asynchronous, before there is a build."""
    import trio  # noqa: PLC0415 - rare

    return trio.run(work, _tools(options))


async def _fetch_dockerfile(file: WebFile, tools: FetchTools) -> Path:
    from asyncbuild.build.incoming import fetch_dockerfile  # noqa: PLC0415 - rare

    return await fetch_dockerfile(file, tools)


def _tools(options: argparse.Namespace) -> FetchTools:
    """What fetching needs, made once; its store is closed with the command."""
    from asyncbuild.build.fetch import FetchTools, secrets_of  # noqa: PLC0415 - rare
    from asyncbuild.build.run_options import RunOptions, SshSource  # noqa: PLC0415
    from asyncbuild.cli.run_options import read_secrets  # noqa: PLC0415
    from asyncbuild.report.quiet import QuietReporter  # noqa: PLC0415
    from asyncbuild.store.store import Store  # noqa: PLC0415

    known: FetchTools | None = getattr(options, "fetch_tools", None)
    if known is None:
        environ: Mapping[str, str] = os.environ
        store = Store.open(store_directory(getattr(options, "store", None), environ))
        options.closing.enter_context(store)
        agent = environ.get("SSH_AUTH_SOCK")
        secrets = read_secrets(getattr(options, "secret", ()), environ)
        known = FetchTools(
            store,
            QuietReporter(sys.stderr),
            environ,
            secrets_of(RunOptions(secrets=secrets)),
            SshSource(Path(agent)) if agent else None,
            read_limits(options),
            gate=read_gate(options),
        )
        options.fetch_tools = known
    return known
