"""``executor login REGISTRY``: a login into docker's config.json, where later calls find it."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncbuild.cli.kaniko_flags import LOGIN, Given, read_flags
from asyncbuild.errors import InputError, StoreError, UsageError
from asyncbuild.image.reference import DOCKER_HUB
from asyncbuild.registry.credentials import DOCKER_HUB_KEY, host_of_key


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
    key = DOCKER_HUB_KEY if host == DOCKER_HUB else host
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    directory = environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    path = Path(directory) / "config.json"
    document = _read(path)
    auths = document.setdefault("auths", {})
    if not isinstance(auths, dict):
        raise InputError(f"{path}: auths is not an object")
    auths[key] = {"auth": auth}
    _write(path, document)
    return 0


def _password(given: Given) -> str:
    plain, piped = given.text("password"), given.on("password-stdin")
    if bool(plain) == piped:
        raise UsageError("give either --password or --password-stdin")
    password = sys.stdin.read().removesuffix("\n").removesuffix("\r") if piped else plain
    if not password:
        raise UsageError("the password is empty")
    return password


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a JSON object")
    return document


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Appears by rename, readable by its owner only."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent="\t")
            file.write("\n")
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
