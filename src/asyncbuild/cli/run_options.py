"""What RUN gets: ``--secret``, ``--ssh``, ``--allow``, ``--device``, limits. buildx's words and rules.

The sources are buildx's ``util/buildflags/{secrets,ssh}.go`` and BuildKit's ``secretsprovider/store.go``,
``sshprovider/agentprovider.go``; docker's ``--memory``, ``--cpus``, ``--ulimit`` and ``--shm-size``.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from asyncbuild.build.run_options import (
    ENTITLEMENTS,
    LARGEST_SECRET,
    RunOptions,
    Secret,
    SshSource,
)
from asyncbuild.dockerfile.mounts import Device, parse_device
from asyncbuild.dockerfile.quantities import parse_size
from asyncbuild.dockerfile.source import Problem
from asyncbuild.errors import InputError, UsageError
from asyncbuild.output.attributes import parse_attributes
from asyncbuild.rootfs.isolation import Isolation
from asyncbuild.rootfs.runspec import LIMITS, Ulimit

_FILE_SYSTEM = re.compile(r"fs(\.(read|write))?=")
"""Entitlements that buildx asks for before it reads outside of the context; there is no client here."""
_LARGEST_CPUS = 4096.0


def read_run_options(options: argparse.Namespace, environ: Mapping[str, str]) -> RunOptions:
    """Read them, and the secrets. Raises `UsageError`, or `InputError` for a file that is not there."""
    isolation = read_isolation(options.isolation, environ)
    specifications = tuple(Path(text) for text in options.cdi_spec_dir)
    return RunOptions(
        secrets=read_secrets(options.secret, environ),
        ssh=_ssh_sources(options.ssh, environ),
        allow=_entitlements(options.allow),
        devices=tuple(_device(text) for text in options.device),
        device_directories=specifications or RunOptions().device_directories,
        shm_size=_size("--shm-size", options.shm_size),
        ulimits=_ulimits(options.ulimit),
        memory=_size("--memory", options.memory),
        cpus=_cpus(options.cpus),
        no_new_privileges=_no_new_privileges(options.security_opt),
        isolation=isolation,
        oci_runtime=read_oci_runtime(options.oci_runtime, environ, isolation),
    )


def _no_new_privileges(texts: Iterable[str]) -> bool:
    """Docker's ``no-new-privileges[=true|false]``; nothing else can be said of security here."""
    found = False
    for text in texts:
        name, _, value = text.replace(":", "=").partition("=")
        if name != "no-new-privileges" or value not in ("", "true", "false"):
            raise UsageError(f"--security-opt {text}: there is no-new-privileges")
        found = value != "false"
    return found


ISOLATION = "ASYNCBUILD_ISOLATION"
"""The variable that says how RUN is executed, where no option does."""


def read_isolation(text: str | None, environ: Mapping[str, str]) -> Isolation:
    """``--isolation``, else the variable, else auto. Raises `UsageError`."""
    named = f"--isolation {text}" if text else f"{ISOLATION}={environ.get(ISOLATION)}"
    try:
        return Isolation(text or environ.get(ISOLATION) or Isolation.AUTO)
    except ValueError:
        raise UsageError(f"{named}: there are {', '.join(Isolation)}") from None


OCI_RUNTIME = "ASYNCBUILD_OCI_RUNTIME"
"""The variable that names a runtime, where no option does."""

_WITHOUT_MOUNTS = (Isolation.CHROOT, Isolation.INPLACE)


def read_oci_runtime(text: str | None, environ: Mapping[str, str], isolation: Isolation) -> str:
    """``--oci-runtime``, else the variable, else none. Raises `UsageError`."""
    runtime = environ.get(OCI_RUNTIME, "") if text is None else text
    named = f"{OCI_RUNTIME}={runtime}" if text is None else f"--oci-runtime {runtime}"
    if text == "" or ("/" in runtime and not os.path.isabs(runtime)):
        raise UsageError(f"{named}: write runc, crun, or the absolute path of one of them")
    if runtime and isolation in _WITHOUT_MOUNTS:
        raise UsageError(
            f"{named}: a runtime needs mounts, and --isolation {isolation} makes none",
            hint="--isolation overlay (root) and rootless make them, where they are permitted",
        )
    return runtime


def read_secrets(texts: Iterable[str], environ: Mapping[str, str]) -> dict[str, Secret]:
    """Every ``--secret``, by its id; of one id the last counts."""
    found = {}
    for text in texts:
        values = dict(parse_attributes(text))
        unknown = set(values) - {"type", "id", "source", "src", "env"}
        kind, name = values.get("type", ""), values.get("id", "")
        file, variable = values.get("source") or values.get("src", ""), values.get("env", "")
        if unknown:
            raise UsageError(f"--secret {name}: there is no key {unknown.pop()}")
        if not name:
            raise UsageError("--secret: id= is missing", hint="write id=ID,src=FILE")
        if kind not in ("", "file", "env"):
            raise UsageError(f"--secret {name}: type is file or env, not {kind}")
        if kind == "env" and not variable:
            file, variable = "", file
        if not file and not variable:
            file, variable = ("", name) if name in environ else (name, "")
        found[name] = (
            secret_of_variable(name, variable, environ) if variable else secret_of_file(name, file)
        )
    return found


def secret_of_variable(name: str, variable: str, environ: Mapping[str, str]) -> Secret:
    """The secret ``name`` from the environment; a variable that is not there is empty, as in BuildKit."""
    return _small_enough(name, os.fsencode(environ.get(variable, "")))


def secret_of_file(name: str, file: str) -> Secret:
    """The secret ``name`` from a file."""
    try:
        with open(file, "rb") as opened:
            return _small_enough(name, opened.read(LARGEST_SECRET + 1))
    except OSError as error:
        hint = f"write id={name},src=FILE, or set the variable {name}" if file == name else None
        raise InputError(
            f"--secret {name}: cannot read {file}: {error.strerror}", hint=hint
        ) from None


def _small_enough(name: str, data: bytes) -> Secret:
    if len(data) > LARGEST_SECRET:
        raise UsageError(f"--secret {name}: it has more than {LARGEST_SECRET} bytes")
    return Secret(data)


def _ssh_sources(texts: Iterable[str], environ: Mapping[str, str]) -> dict[str, SshSource]:
    found: dict[str, SshSource] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        name = name or "default"
        if name in found:
            raise UsageError(f"--ssh {text}: {name} is given twice")
        parts = [part for part in rest.split(",") if part]
        raw = [part for part in parts if part.startswith("raw=")]
        paths = [part for part in parts if part not in raw] or [environ.get("SSH_AUTH_SOCK", "")]
        if paths == [""]:
            hint = "start one (eval $(ssh-agent)), or name a socket or key: --ssh default=FILE"
            raise UsageError(f"--ssh {text}: SSH_AUTH_SOCK names no agent", hint=hint)
        found[name] = _ssh_source(text, paths, raw=raw == ["raw=true"])
    return found


def _ssh_source(text: str, paths: list[str], *, raw: bool) -> SshSource:
    sockets: list[Path] = []
    keys: list[Path] = []
    for path in map(Path, paths):
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise InputError(f"--ssh {text}: cannot use {path}: {error.strerror}") from None
        (sockets if stat.S_ISSOCK(mode) else keys).append(path.absolute())
    if len(sockets) > 1 or (sockets and keys):
        raise UsageError(f"--ssh {text}: it is one socket, or keys")
    if raw and not sockets:
        raise UsageError(f"--ssh {text}: raw=true needs a socket")
    return SshSource(sockets[0] if sockets else None, tuple(keys), raw)


def _entitlements(texts: Iterable[str]) -> frozenset[str]:
    for text in texts:
        known = text in ENTITLEMENTS or text.startswith("device=") or _FILE_SYSTEM.match(text)
        if not known:
            hint = f"there are {', '.join(ENTITLEMENTS)}, device=NAME"
            raise UsageError(f"--allow {text}: unknown entitlement", hint=hint)
    return frozenset(texts)


def _device(text: str) -> Device:
    try:
        return parse_device(text)
    except Problem as problem:
        raise UsageError(f"--device: {problem}") from None


def _size(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text) or None
    except Problem as problem:
        raise UsageError(f"{option}: {problem}") from None


def _cpus(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= _LARGEST_CPUS:
        raise UsageError(f"--cpus {text}: write a number of processors, such as 1.5")
    return number or None


def _ulimits(texts: Iterable[str]) -> tuple[Ulimit, ...]:
    """``name=soft[:hard]``; of one name the last counts."""
    found = {}
    for text in texts:
        match = re.fullmatch(r"([a-z]+)=(-1|\d+)(?::(-1|\d+))?", text)
        if match is None or match[1] not in LIMITS:
            hint = f"the names are {', '.join(sorted(LIMITS))}"
            raise UsageError(f"--ulimit {text}: write NAME=SOFT[:HARD]", hint=hint)
        soft = int(match[2])
        hard = soft if match[3] is None else int(match[3])
        if hard != -1 and (soft == -1 or soft > hard):
            raise UsageError(f"--ulimit {text}: the soft limit is above the hard one")
        found[match[1]] = Ulimit(match[1], soft, hard)
    return tuple(found.values())
