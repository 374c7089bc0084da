"""Which OCI runtimes this machine has. Everything blocks, for hundredths of a second."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from asyncbuild.errors import IsolationError
from asyncbuild.records import dataclass

RUNTIMES = ("runc", "crun")
"""What is known: each needs words of its own to do without control groups."""

OLDEST = (1, 0)
"""Of either: runc since June 2021, crun since August 2021. Both know the errors of seccomp profiles."""

_WITHOUT_CONTROL_GROUPS = {
    "runc": (b"--rootless", b"true"),
    "crun": (b"--cgroup-manager=disabled",),
}
_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
_VERSION = re.compile(r"(\w+) version (\d+)\.(\d+)(\S*)")
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that can be used. ``name`` is what it says that it is, ``path`` absolute."""

    name: str
    path: str
    version: str

    @property
    def command(self) -> tuple[bytes, ...]:
        """How it is called, before the words of the specification's command line."""
        return (os.fsencode(self.path), *_WITHOUT_CONTROL_GROUPS[self.name])


def find_runtime(text: str, environ: Mapping[str, str]) -> Runtime:
    """The runtime that ``text`` names: an absolute path, or a name, in PATH or where systems keep such
    programs (of which a user's PATH often lacks the half).

    Raises `IsolationError` if it is not there, is another program, or is too old.
    """
    named = f"--oci-runtime {text}"
    path = _path(text, environ)
    if path is None:
        hint = "install it (Debian's packages are runc and crun), or name it by its absolute path"
        raise IsolationError(f"{named}: there is no such program", hint=hint)
    said = _first_line(path, named)
    match = _VERSION.match(said)
    if match is None or match[1] not in RUNTIMES:
        raise IsolationError(
            f"{named} is neither runc nor crun: {path} --version says {said or 'nothing'!r}"
        )
    name, version = match[1], f"{match[2]}.{match[3]}{match[4]}"
    if (int(match[2]), int(match[3])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise IsolationError(
            f"{named}: {path} is {name} {version}", hint=f"{oldest} or later is needed"
        )
    return Runtime(name, path, version)


def known_runtimes(environ: Mapping[str, str]) -> dict[str, Runtime | str | None]:
    """Each that is known, by its name: as it was found, or what speaks against it; None for nothing."""
    found: dict[str, Runtime | str | None] = {}
    for name in RUNTIMES:
        try:
            found[name] = find_runtime(name, environ) if _path(name, environ) else None
        except IsolationError as error:
            found[name] = error.message
    return found


def _path(text: str, environ: Mapping[str, str]) -> str | None:
    places = filter(os.path.isabs, (*environ.get("PATH", "").split(os.pathsep), *_PLACES))
    return shutil.which(text, path=os.pathsep.join(places))


def _first_line(path: str, named: str) -> str:
    try:
        done = subprocess.run(
            [path, "--version"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IsolationError(f"{named}: {path} does not run: {error}") from None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return lines[0] if lines else ""
