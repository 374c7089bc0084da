"""A kaniko build's context as a directory, and its Dockerfile's text."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from asyncbuild.cli.inputs import read_dockerfile
from asyncbuild.cli.kaniko_context import Archive, ContextPlace, Directory, context_place
from asyncbuild.cli.kaniko_fetch import fetch_file, fetch_git
from asyncbuild.cli.kaniko_flags import Given
from asyncbuild.cli.kaniko_options import GitOptions, git_options
from asyncbuild.context.buckets import BucketObject, fetch_object
from asyncbuild.dockerfile.remote import GitReference, WebFile
from asyncbuild.errors import InputError, UsageError
from asyncbuild.records import dataclass


@dataclass(frozen=True, slots=True)
class KanikoSource:
    """What is built: a directory on this machine, and the Dockerfile's bytes and place."""

    context: Path
    dockerfile: bytes
    dockerfile_path: Path


def open_source(given: Given, environ: Mapping[str, str], stack: ExitStack) -> KanikoSource:
    """Bring the context here; what had to be unpacked is removed when ``stack`` is closed.

    Raises `InputError` for what is not there, `UsageError` for what is no context. Blocks.
    """
    place = context_place(given, environ)
    context = _directory(place, git_options(given), environ, stack)
    if given.text("context-sub-path"):
        context = _inside(context, given.text("context-sub-path"))
    if not context.is_dir():
        what = "is not a directory" if context.exists() else "does not exist"
        raise InputError(f"the context {context} {what}", hint="name it with --context")
    path = _dockerfile_path(given.text("dockerfile"), context, stack)
    return KanikoSource(context, read_dockerfile(path), path)


def _directory(
    place: ContextPlace, options: GitOptions, environ: Mapping[str, str], stack: ExitStack
) -> Path:
    if isinstance(place, Directory):
        return Path(place.path)
    work = _scratch(stack)
    context = work / "context"
    context.mkdir()
    match place:
        case Archive(path):
            _unpack(Path(path) if path else _spool_stdin(work / "archive"), context)
        case BucketObject():
            fetch_object(place, work / "archive", environ)
            _unpack(work / "archive", context)
        case WebFile():
            fetch_file(place, work / "archive")
            _unpack(work / "archive", context)
        case GitReference():
            fetch_git(place, options, context)
    return context


def _scratch(stack: ExitStack) -> Path:
    path = tempfile.mkdtemp(prefix="asyncbuild-context-")
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def _unpack(archive: Path, directory: Path) -> None:
    from asyncbuild.layers.extract import ExtractJob, extract  # noqa: PLC0415 - not for directories

    extract(ExtractJob(os.path.realpath(archive), str(directory)))


def _spool_stdin(path: Path) -> Path:
    if sys.stdin.isatty():
        raise UsageError(
            "--context tar://stdin: nothing is piped in", hint="tar -cz . | executor …"
        )
    with path.open("xb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return path


def _inside(context: Path, sub_path: str) -> Path:
    """A directory of the context, which no link leads out of."""
    path = Path(os.path.realpath(context / sub_path.lstrip("/")))
    if not path.is_relative_to(os.path.realpath(context)):
        raise UsageError(f"--context-sub-path {sub_path} leads out of the context")
    return path


def _dockerfile_path(text: str, context: Path, stack: ExitStack) -> Path:
    """As kaniko has it: seen from here if it is there, else from the context. A URL is fetched."""
    if text.startswith(("http://", "https://")):
        path = _scratch(stack) / "Dockerfile"
        fetch_file(WebFile(text), path)
        return path
    here = Path(text)
    return here if here.is_file() else context / text
