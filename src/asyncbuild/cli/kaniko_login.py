"""``executor login REGISTRY``: a login into docker's config.json, where later calls find it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import trio

from asyncbuild.cli.kaniko_flags import LOGIN, Given, read_flags
from asyncbuild.errors import UsageError
from asyncbuild.registry.auth import Credential
from asyncbuild.registry.credentials import host_of_key
from asyncbuild.registry.logins import LoginFile, place_of_registry


def login(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Write user and password; nothing is asked of the registry."""
    given = read_flags(LOGIN, words)
    if len(given.words) != 1:
        raise UsageError("name one registry: executor login REGISTRY --username USER")
    user, password = given.text("username"), _password(given)
    if not user or ":" in user:
        raise UsageError("a user name is required (--username), and has no colon")
    host = host_of_key(given.words[0])
    if not host:
        raise UsageError(f"{given.words[0]!r} is no registry's host")
    directory = environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    file = LoginFile(os.path.join(directory, "config.json"), environ)
    trio.run(file.store, place_of_registry(host), Credential(user, password))
    return 0


def _password(given: Given) -> str:
    plain, piped = given.text("password"), given.on("password-stdin")
    if bool(plain) == piped:
        raise UsageError("give either --password or --password-stdin")
    password = sys.stdin.read().removesuffix("\n").removesuffix("\r") if piped else plain
    if not password:
        raise UsageError("the password is empty")
    return password
