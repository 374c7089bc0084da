"""``asyncbuild login`` and ``asyncbuild logout``."""

from __future__ import annotations

import argparse
import getpass
import os
import sys

import trio

from asyncbuild.build.outcome import one_error
from asyncbuild.cli.registry_options import read_registries
from asyncbuild.errors import NotAuthorized, UsageError
from asyncbuild.records import dataclass, replace
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.credentials import place_of_key
from asyncbuild.registry.logins import LoginFile, login_file, place_of_registry
from asyncbuild.registry.registries import Registries, RegistrySettings


def login(options: argparse.Namespace) -> int:
    """Ask for what was not given, let the registry check it, keep it."""
    place = place_of_registry(options.registry)
    if len(options.auth_file) > 1:
        raise UsageError("--auth-file: one file can keep the login")
    named = options.auth_file[0] if options.auth_file else None
    options.auth_file = []  # it need not exist yet
    settings = read_registries(options, os.environ)
    given = Credential(_username(options), _password(options))
    path = login_file(os.environ, os.path.expanduser("~"), named)
    kept, asked = trio.run(_login, place, given, settings, LoginFile(path, os.environ))
    if not asked:
        sys.stderr.write(f"{options.registry} asks nobody for a login: it was not checked\n")
    sys.stdout.write(f"login kept in {kept}\n")
    return 0


def logout(options: argparse.Namespace) -> int:
    """Forget it; that there is none is no error."""
    place = place_of_registry(options.registry)
    path = login_file(os.environ, os.path.expanduser("~"), options.auth_file)
    if trio.run(LoginFile(path, os.environ).remove, place):
        sys.stdout.write(f"login for {options.registry} removed from {path}\n")
    else:
        sys.stdout.write(f"no login for {options.registry} in {path}\n")
    return 0


@dataclass(slots=True)
class _OneLogin:
    """The login that is to be checked, for its host; notes whether it was asked for."""

    host: str
    login: Credential
    asked: bool = False

    async def credential(self, registry: str, repository: str = "") -> Credential:  # noqa: ARG002
        """The login."""
        await trio.lowlevel.checkpoint()
        self.asked = self.asked or registry == self.host
        return self.login if registry == self.host else ANONYMOUS


async def _login(
    place: str, given: Credential, settings: RegistrySettings, file: LoginFile
) -> tuple[str, bool]:
    """Where it is kept, and whether the registry wanted to see it."""
    host = place_of_key(place).partition("/")[0]
    keychain = _OneLogin(host, given)
    with one_error():
        async with Registries(replace(settings, keychain=keychain)) as registries:
            try:
                await registries.client(host).check_access()
            except NotAuthorized as error:
                error.hint = "is the password right? some registries want a token instead"
                raise
        return await file.store(place, given), keychain.asked


def _username(options: argparse.Namespace) -> str:
    name = options.username or ""
    if not name and sys.stdin.isatty() and not options.password_stdin:
        sys.stderr.write("user name: ")
        sys.stderr.flush()
        name = sys.stdin.readline().strip()
    if not name or ":" in name or not name.isprintable():
        raise UsageError("name the user with -u; the name has no colon")
    return name


def _password(options: argparse.Namespace) -> str:
    if options.password and options.password_stdin:
        raise UsageError("--password and --password-stdin: one of them")
    if options.password_stdin:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    elif options.password:
        password = options.password
    elif sys.stdin.isatty():
        password = getpass.getpass("password: ", sys.stderr)
    else:
        raise UsageError("where does the password come from?", hint="use --password-stdin")
    if not password:
        raise UsageError("the password is empty")
    return str(password)
