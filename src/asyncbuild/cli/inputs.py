"""What ``build`` and ``plan`` have in common: the Dockerfile, the context, arguments, the platform."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from asyncbuild.cli.contexts import open_context_of, read_named_contexts
from asyncbuild.cli.docker_proxies import proxy_arguments
from asyncbuild.errors import InputError, UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.plan.contexts import NamedContexts
from asyncbuild.plan.planner import PlanRequest
from asyncbuild.records import dataclass

MOST_DOCKERFILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Inputs:
    """The Dockerfile's text and place, and what its ARGs and FROMs may depend on."""

    context: Path
    context_is_remote: bool
    contexts: NamedContexts
    dockerfile: bytes
    dockerfile_path: Path
    build_args: Mapping[str, str]
    platform: Platform
    build_platform: Platform

    def plan_request(self, target: str | None) -> PlanRequest:
        """What is planned of them, up to the stage ``target``."""
        return PlanRequest(
            platform=self.platform,
            build_platform=self.build_platform,
            build_args=self.build_args,
            target=target,
            contexts=self.contexts,
        )


def read_inputs(options: argparse.Namespace) -> Inputs:
    """Read what the options name. Raises `InputError` for what is not there, `UsageError` for the rest."""
    opened = open_context_of(options)
    here = Platform.of_machine(platform.machine())
    return Inputs(
        context=opened.context,
        context_is_remote=opened.remote,
        contexts=read_named_contexts(options.build_context),
        dockerfile=read_dockerfile(opened.dockerfile),
        dockerfile_path=opened.shown,
        build_args={
            **proxy_arguments(os.environ, os.path.expanduser("~")),
            **build_arguments(options.build_arg, os.environ),
        },
        platform=_platform(options.platform, here),
        build_platform=here,
    )


def check_places(files: Iterable[str]) -> None:
    """See that each file which will be written has a directory to be in: now, not after the build."""
    for file in files:
        directory = Path(file).parent
        if not directory.is_dir():
            raise InputError(f"cannot write {file}: there is no directory {directory}")


def pairs(items: Iterable[str], option: str, shape: str = "NAME=VALUE") -> dict[str, str]:
    """``K=V`` words as a mapping; the last of a name wins."""
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {item}: write {shape}")
        found[name] = value
    return found


def build_arguments(items: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """``K=V``, or ``K`` for the value that the environment has; SOURCE_DATE_EPOCH is always passed on."""
    found = {}
    if "SOURCE_DATE_EPOCH" in environ:
        found["SOURCE_DATE_EPOCH"] = environ["SOURCE_DATE_EPOCH"]
    for item in items:
        name, equals, value = item.partition("=")
        if not name:
            raise UsageError(f"--build-arg {item}: write NAME=VALUE, or NAME to take it from here")
        if equals:
            found[name] = value
        elif name in environ:
            found[name] = environ[name]
    return found


def read_dockerfile(path: Path) -> bytes:
    """The Dockerfile's text; raises `InputError` if it cannot be read or is too large to be one."""
    try:
        with sys.stdin.buffer if str(path) == "/dev/stdin" else path.open("rb") as file:
            text = file.read(MOST_DOCKERFILE_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read the Dockerfile {path}: {error.strerror}", hint="name it with -f"
        ) from None
    if len(text) > MOST_DOCKERFILE_BYTES:
        raise InputError(f"{path} has more than {MOST_DOCKERFILE_BYTES} bytes: is it a Dockerfile?")
    return text


def _platform(text: str | None, here: Platform) -> Platform:
    if text is None:
        return here
    if "," in text:
        raise UsageError("--platform: several platforms in one build are not supported yet")
    try:
        return Platform.parse(text, here)
    except ValueError as error:
        raise UsageError(f"--platform: {error}") from None
